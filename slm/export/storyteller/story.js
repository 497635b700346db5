"use strict";
// A story, and the words on the page that show it. Words of a story are only ever put in as text
// (textContent), so that nothing in them is taken for a part of the page.

let story = null; // the one that is shown
let textStream = null; // decodes its tokens, one after another

function element(id) {
  return document.getElementById(id);
}

/** A story that is yet to be written: plain data, so that it can be stored as it is. */
function newStory(prompt, sampling) {
  return {
    prompt,
    sampling, // the settings: temperature, min_p, max_new_tokens, seed
    tokens: [], // id, probability, likeliest ones in its place; byHand where the reader chose it
    ending: "", // how it ended: a key of ENDINGS
  };
}

function storyIds() {
  const { tokenizer, encode } = storyteller;
  return [tokenizer.bosId, ...encode(story.prompt), ...story.tokens.map((token) => token.id)];
}

function endsStory(id) {
  return storyteller.tokenizer.endIds.includes(id);
}

/** The text as it is on the page. */
function storyText() {
  return element("story").textContent;
}

/** Shows a story, from its prompt to its last token. */
function drawStory(nextStory) {
  story = nextStory;
  textStream = storyteller.tokenizer.decodeStream();
  const prompt = document.createElement("b");
  prompt.textContent = story.prompt;
  element("story").replaceChildren(prompt);
  story.tokens.forEach(drawToken);
}

function addToken(token) {
  story.tokens.push(token);
  drawToken(token, story.tokens.length - 1);
}

/** Adds a token to the page: a word that can be clicked, coloured by how probable it was. */
function drawToken(token, number) {
  // There is no text yet where the token ends within a character.
  const text = endsStory(token.id) ? "" : textStream.next(token.id);
  const wordStart = text.search(/\S|$/); // the space before a word is not coloured
  const word = document.createElement("span");
  word.className = "word";
  word.textContent = text.slice(wordStart);
  word.style.setProperty("--chance", token.probability.toFixed(3));
  const span = document.createElement("span");
  span.className = "token";
  // One word is a stop for the Tab key; arrow keys go on from there.
  span.tabIndex = element("story").querySelector("[tabindex='0']") ? -1 : 0;
  span.dataset.number = number;
  span.append(text.slice(0, wordStart), word);
  element("story").append(span);
}

/** After the last token: what is left of half a character, and how the story ended. */
function drawEnding() {
  const rest = textStream.end();
  if (rest) element("story").append(rest);
  element("ending").textContent = endingSentence();
  element("again").hidden = countByHand() > 0; // then no seed writes it again
  element("below").hidden = false;
  document.body.style.minHeight = "";
}

function countByHand() {
  return story.tokens.filter((token) => token.byHand).length;
}

const ENDINGS = {
  end: "The end.",
  stopped: "Stopped.",
  limit: "Cut off at the length that the settings allow.",
  failed: "Broken off.",
  "": "Broken off when the page was closed.",
};

function endingSentence() {
  const words = storyText().split(/\s+/).filter(Boolean).length;
  const count = words === 1 ? "1 word" : `${words} words`;
  const byHand = countByHand();
  const origin = byHand ? `${byHand} chosen by you` : `seed ${story.sampling.seed}`;
  return `${ENDINGS[story.ending]} ${count}, ${origin}.`;
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
    moveFocus(span, steps[event.key]);
  } else if (event.key === "Enter" || event.key === " ") {
    showWhy(Number(span.dataset.number));
    element("alternatives").querySelector("button")?.focus({ preventScroll: true });
  } else {
    return;
  }
  event.preventDefault();
}

function moveFocus(span, step) {
  const visible = tokenElements().filter((other) => other === span || other.textContent !== "");
  const next = visible[visible.indexOf(span) + step];
  if (!next) return;
  for (const other of tokenElements()) other.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
