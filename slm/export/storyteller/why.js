"use strict";
// Why this word? A panel shows the chance of a word that was clicked, and what else might have come.

let chosenNumber = null; // of the token that the panel is about

function percent(chance) {
  if (chance < 0.001) return "under 0.1%";
  if (chance < 0.1) return `${(100 * chance).toFixed(1)}%`;
  if (chance < 0.995) return `${(100 * chance).toFixed(0)}%`;
  return "over 99%"; // not 100%: others had a chance too
}

/** How a token is called after a text: “…ally” where it goes on with the text's last word. */
function tokenName(id, before) {
  if (endsStory(id)) return "(the end)";
  const text = storyteller.tokenizer.piece(id);
  if (/^(\\x[0-9a-f]{2})+$/.test(text)) return "(half a character)";
  if (text.trim() === "") return text.includes("\n") ? "(a new line)" : "(a space)";
  const goesOn = /[\p{L}\p{N}]$/u.test(before) && /^['’]?[\p{L}\p{N}]/u.test(text);
  return goesOn ? `“…${text.trimEnd()}”` : `“${text.trim()}”`;
}

/** The text before a token of the story. */
function textBefore(number) {
  const ids = story.tokens.slice(0, number).map((token) => token.id);
  return story.prompt + storyteller.decode(ids);
}

/** The word that a token is a part of; nothing for a token of signs and spaces alone. */
function wordAround(number) {
  const start = textBefore(number).length;
  const end = textBefore(number + 1).length;
  for (const match of storyText().matchAll(/[\p{L}\p{M}\p{N}]+(?:['’][\p{L}\p{M}\p{N}]+)*/gu)) {
    const isAround = match.index < end && match.index + match[0].length > start;
    if (isAround) return match[0];
  }
  return "";
}

/** “…ally” in “especially” had a chance of 45%. */
function chanceSentence(number) {
  const { id, probability } = story.tokens[number];
  let name = tokenName(id, textBefore(number));
  const word = wordAround(number);
  const isWhole = name === `“${word}”`;
  if (word && !isWhole && !endsStory(id)) name += ` in “${word}”`;
  return `${name} had a chance of ${percent(probability)}.`;
}

/** Opens the panel about a token: what might have come in its place, the likeliest first. */
function showWhy(number) {
  if (writing) return;
  closeWhy();
  chosenNumber = number;
  const token = story.tokens[number];
  const span = tokenElements()[number];
  span.classList.add("chosen");
  element("why-title").textContent = chanceSentence(number);
  const shown = [...token.likeliest];
  if (!shown.some((other) => other.id === token.id)) shown.push(token);
  const before = textBefore(number);
  element("alternatives").replaceChildren(
    ...shown.map(({ id, probability }) =>
      alternative(id, probability, tokenName(id, before), id === token.id),
    ),
  );
  element("why-parts").hidden = !element("alternatives").textContent.includes("…");
  element("why").hidden = false;
  document.documentElement.style.scrollPaddingBottom = `${element("why").offsetHeight + 16}px`;
  span.scrollIntoView({ block: "nearest" });
}

/** One line of the panel: a name, a bar and a chance. A click takes this token instead. */
function alternative(id, probability, name, isActual) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "alternative";
  button.setAttribute("aria-current", isActual); // the one that came is bold
  for (const [part, text] of [["name", name], ["bar", ""], ["chance", percent(probability)]]) {
    const span = document.createElement("span");
    span.className = part;
    span.textContent = text;
    button.append(span);
  }
  button.style.setProperty("--chance", probability);
  button.addEventListener("click", () => takeInstead(id, probability));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function closeWhy() {
  const span = tokenElements()[chosenNumber];
  span?.classList.remove("chosen");
  if (element("why").contains(document.activeElement)) span?.focus({ preventScroll: true });
  chosenNumber = null;
  element("why").hidden = true;
}

/** Begins a new story that is the same up to the chosen token and has another in its place. */
function takeInstead(id, probability) {
  const token = { ...story.tokens[chosenNumber], id, probability, byHand: true };
  const changed = newStory(story.prompt, samplingParameters());
  changed.tokens = [...story.tokens.slice(0, chosenNumber), token];
  // The page keeps its height until the story has its ending: else the chosen word would jump.
  document.body.style.minHeight = `${document.documentElement.scrollHeight}px`;
  closeWhy();
  writeStory(changed);
  tokenElements().at(-1)?.focus({ preventScroll: true }); // the arrow keys go on from there
}
