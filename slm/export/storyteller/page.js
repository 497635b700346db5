"use strict";
// The page: what happens where something is clicked, and how a story is shown. Words of a story are
// only ever put in as text (textContent), so that nothing in them is taken for a part of the page.

function element(id) {
  return document.getElementById(id);
}

function settings() {
  return JSON.parse(element("settings").textContent);
}

/** What the page shows: a prompt, the tokens written after it, and which of them is asked about. */
const story = { promptIds: [], tokens: [], chosen: null, stream: null };
let storyteller; // tokenizer and model, once they are unpacked
let writing = null; // an AbortController while a story is written

async function load() {
  const tokenizer = new Tokenizer(JSON.parse(element("tokenizer").textContent));
  const file = await unpack(element("weights").textContent);
  const model = new Transformer(settings().config, readTensors(file));
  element("weights").remove(); // its letters would stay in memory
  // To be tried in the browser's console: storyteller.encode("Once upon a time")
  return {
    tokenizer,
    model,
    encode: (text) => tokenizer.encode(text),
    decode: (ids) => tokenizer.decode(ids),
    write: (ids, sampling, signal) =>
      generateIds(model, ids, sampling, tokenizer.endIds, signal ?? new AbortController().signal),
  };
}

// Writing

/** How the next token is chosen, as the settings say. Without a seed, a new one is drawn. */
function samplingParameters() {
  const seed = element("seed").value;
  return {
    temperature: element("temperature").valueAsNumber,
    min_p: settings().sampling.min_p,
    max_new_tokens: element("length").valueAsNumber,
    seed: seed === "" ? Math.floor(Math.random() * 100_000) : Number(seed) || 0,
  };
}

function beginStory() {
  const prompt = element("prompt").value.trimEnd(); // a word comes with the space before it
  story.promptIds = [storyteller.tokenizer.bosId, ...storyteller.encode(prompt)];
  story.tokens = [];
  story.stream = storyteller.tokenizer.decodeStream();
  const beginning = document.createElement("b");
  beginning.textContent = prompt;
  element("story").replaceChildren(beginning);
  const sampling = samplingParameters();
  continueStory(sampling, `, seed ${sampling.seed}`);
}

/** Writes on from where the story stands, until it ends, is long enough or is stopped. The note is
 * what is said of the story at its end. */
async function continueStory(sampling, note = "") {
  sampling.max_new_tokens -= story.tokens.length;
  const ids = [...story.promptIds, ...story.tokens.map((token) => token.id)];
  closeWhy();
  writing = new AbortController();
  showWriting(true);
  try {
    let hasEnded = endsStory(ids.at(-1)) && story.tokens.length > 0;
    if (!hasEnded && sampling.max_new_tokens > 0) {
      for await (const token of storyteller.write(ids, sampling, writing.signal)) {
        hasEnded = endsStory(token.id);
        addToken(token);
      }
    }
    const rest = story.stream.end(); // half a character, where it was stopped within one
    if (rest) element("story").append(rest);
    showStatus(hasEnded, writing.signal.aborted, note);
  } finally {
    writing = null;
    showWriting(false);
  }
}

function endsStory(id) {
  return storyteller.tokenizer.endIds.includes(id);
}

function showWriting(isWriting) {
  const hadFocus = [element("write"), element("stop")].includes(document.activeElement);
  element("write").hidden = isWriting;
  element("stop").hidden = !isWriting;
  element("story").setAttribute("aria-busy", isWriting);
  element("below").hidden = isWriting;
  if (isWriting) element("status").textContent = "Writing …";
  if (hadFocus) element(isWriting ? "stop" : "write").focus({ preventScroll: true });
}

function showStatus(hasEnded, wasStopped, note) {
  const words = storyText().split(/\s+/).filter(Boolean).length;
  let end = "Cut off at the length that the settings allow";
  if (hasEnded) end = "The end";
  if (wasStopped) end = "Stopped";
  const count = words === 1 ? "1 word" : `${words} words`;
  element("status").textContent = `${end}. ${count}${note}.`;
}

function storyText() {
  return element("story").textContent;
}

// The words of a story

/** Adds a token to the page: as a word that can be clicked, coloured by how unsure the model was. */
function addToken(token) {
  const number = story.tokens.push(token) - 1;
  // There is no text yet where the token ends within a character.
  const text = endsStory(token.id) ? "" : story.stream.next(token.id);
  const wordStart = text.search(/\S|$/);
  const word = document.createElement("span");
  word.className = "word";
  word.textContent = text.slice(wordStart);
  word.style.setProperty("--unsure", (1 - token.probability).toFixed(3));
  const span = document.createElement("span");
  span.className = "token";
  // One word is a stop for the Tab key; arrow keys go on from there.
  span.tabIndex = element("story").querySelector("[tabindex='0']") ? -1 : 0;
  span.dataset.number = number;
  span.append(text.slice(0, wordStart), word);
  element("story").append(span);
}

function tokenElements() {
  return [...element("story").querySelectorAll(".token")];
}

/** Arrow keys go from word to word, Enter and the space bar ask about one. */
function onStoryKey(event) {
  const span = event.target.closest(".token");
  if (!span) return;
  const steps = { ArrowLeft: -1, ArrowRight: 1 };
  if (event.key in steps) {
    const shown = tokenElements().filter((other) => other.textContent !== "");
    const next = shown[shown.indexOf(span) + steps[event.key]];
    if (!next) return;
    span.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  } else if (event.key === "Enter" || event.key === " ") {
    showWhy(Number(span.dataset.number));
    element("alternatives").querySelector("button")?.focus({ preventScroll: true });
  } else {
    return;
  }
  event.preventDefault();
}

// Why this word?

function percent(share) {
  if (share < 0.001) return "under 0.1%";
  if (share >= 0.995) return "over 99%";
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
}

/** How a token is called: mostly its text, without the space that may belong to it. */
function tokenName(id) {
  if (endsStory(id)) return "(the end)";
  const text = storyteller.tokenizer.piece(id);
  if (text.includes("\n")) return "(a new line)";
  if (text.trim() === "") return "(a space)";
  return `“${text.trimStart()}”`;
}

/** Shows what might have come in place of a token, the likeliest first. */
function showWhy(number) {
  if (writing) return;
  closeWhy();
  story.chosen = number;
  const token = story.tokens[number];
  const span = tokenElements()[number];
  span.classList.add("chosen");
  const chance = `${tokenName(token.id)} had a chance of ${percent(token.probability)} here.`;
  element("why-title").textContent = chance;
  const shown = [...token.likeliest];
  if (!shown.some((other) => other.id === token.id)) shown.push(token);
  element("alternatives").replaceChildren(...shown.map((other) => alternative(other, token.id)));
  element("why").hidden = false;
  document.documentElement.style.scrollPaddingBottom = `${element("why").offsetHeight + 16}px`;
  span.scrollIntoView({ block: "nearest" });
}

function alternative({ id, probability }, chosenId) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const name = document.createElement("span");
  const chance = document.createElement("span");
  button.type = "button";
  button.className = "alternative";
  button.style.setProperty("--probability", probability);
  button.setAttribute("aria-current", id === chosenId);
  name.textContent = tokenName(id);
  chance.textContent = percent(probability);
  button.append(name, chance);
  button.addEventListener("click", () => takeInstead(id, probability));
  item.append(button);
  return item;
}

function closeWhy() {
  const span = tokenElements()[story.chosen];
  span?.classList.remove("chosen");
  if (element("why").contains(document.activeElement)) span?.focus({ preventScroll: true });
  story.chosen = null;
  element("why").hidden = true;
}

/** Puts another token in the place of the chosen one, and writes on from there. */
function takeInstead(id, probability) {
  const number = story.chosen;
  const token = { ...story.tokens[number], id, probability };
  const span = tokenElements()[number];
  while (element("story").lastChild !== span) element("story").lastChild.remove();
  span.remove();
  story.tokens = story.tokens.slice(0, number);
  story.stream = storyteller.tokenizer.decodeStream();
  for (const before of story.tokens) story.stream.next(before.id); // half a character may be open
  addToken(token);
  continueStory(samplingParameters());
}

// Everything else

function saveStory() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${storyText()}\n`], { type: "text/plain" }));
  link.download = "story.txt";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // some browsers read it later
}

function toggleSettings() {
  const panel = element("settings-panel");
  panel.hidden = !panel.hidden;
  element("settings-button").setAttribute("aria-expanded", !panel.hidden);
}

function showSettings() {
  element("temperature-value").textContent = element("temperature").valueAsNumber.toFixed(2);
  element("length-value").textContent = element("length").value;
  element("story").classList.toggle("coloured", element("colours").checked);
}

function describeModel() {
  const { name, parameters, bits } = settings();
  element("about").textContent =
    `The model “${name}” is in this file: ${parameters.toLocaleString("en")} parameters, ` +
    `most stored in ${bits} bits. Nothing is fetched, and what you write stays here.`;
}

function listen() {
  element("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!storyteller || writing) return;
    // On a phone its keyboard would cover the story.
    if (matchMedia("(pointer: coarse)").matches) document.activeElement.blur();
    beginStory();
  });
  element("stop").addEventListener("click", () => writing?.abort());
  element("settings-button").addEventListener("click", toggleSettings);
  element("settings-panel").addEventListener("input", showSettings);
  element("save").addEventListener("click", saveStory);
  element("why-close").addEventListener("click", closeWhy);
  element("story").addEventListener("keydown", onStoryKey);
  element("story").addEventListener("click", (event) => {
    const span = event.target.closest(".token");
    if (span) showWhy(Number(span.dataset.number));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") closeWhy();
  });
}

async function main() {
  const { sampling } = settings();
  element("temperature").value = sampling.temperature;
  element("length").value = sampling.max_new_tokens;
  showSettings();
  describeModel();
  listen();
  try {
    storyteller = await load();
  } catch (error) {
    element("status").textContent =
      `The model cannot be unpacked here (${error.message}). A newer browser may be able to.`;
    throw error;
  }
  element("status").textContent = "Begin a story, then press Write.";
  element("write").disabled = false;
}

addEventListener("DOMContentLoaded", main);
