"use strict";
// The page: unpacking the model, writing, and what happens where something is clicked.

const MAX_SEED = 2 ** 32 - 1;
const SEED_HINT = "The same number writes the same story again. Empty: a new one each time.";

let storyteller; // tokenizer and model, once they are unpacked
let writing = null; // an AbortController while a story is written

function settings() {
  return readJson("settings");
}

/** What stands in a script element of this page as JSON. */
function readJson(id) {
  try {
    return JSON.parse(element(id).textContent);
  } catch {
    throw new DamagedFile(`its part “${id}” cannot be read`);
  }
}

async function load() {
  const tokenizer = new Tokenizer(readJson("tokenizer"));
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

/** Says what is wrong, and how to mend it, of an error that may happen to anybody. Others are
 * faults of the scripts: startup.js says so, and the console says where. */
function explainError(error) {
  if (error instanceof DamagedFile) {
    showProblem(`This file is damaged: ${error.message}. Ask for it once more.`);
  } else if (isOutOfMemory(error)) {
    showProblem("There is too little memory. Close other pages and programs, and reload this one.");
  } else {
    throw error;
  }
}

// Writing

/** How the next token is chosen, as the settings say. Without a seed, a new one is drawn. */
function samplingParameters() {
  checkSeed();
  const seed = element("seed").value;
  return {
    temperature: element("temperature").valueAsNumber,
    min_p: settings().sampling.min_p,
    max_new_tokens: element("length").valueAsNumber,
    seed: seed === "" ? Math.floor(Math.random() * 100_000) : Number(seed),
  };
}

function beginStory() {
  const prompt = element("prompt").value.trimEnd(); // a word comes with the space before it
  writeStory(newStory(prompt, samplingParameters()));
}

/** Shows a story and writes on from where it stands, until it ends, is long enough or is stopped. */
async function writeStory(nextStory) {
  addStory(nextStory);
  drawStory(nextStory);
  writing = new AbortController();
  showWriting(true);
  try {
    story.ending = await writeTokens(writing.signal);
  } catch (error) {
    story.ending = "failed";
    explainError(error);
  } finally {
    writing = null;
    showWriting(false);
    drawEnding();
    showNeighbourButtons();
    storePage();
  }
}

/** Adds tokens to the story; returns how it ended. */
async function writeTokens(signal) {
  const { tokens } = story;
  const sampling = { ...story.sampling };
  sampling.max_new_tokens -= tokens.length; // those before a word that was chosen by hand
  if (tokens.length && endsStory(tokens.at(-1).id)) return "end";
  if (sampling.max_new_tokens <= 0) return "limit";
  for await (const token of storyteller.write(storyIds(), sampling, signal)) {
    addToken(token);
    if (endsStory(token.id)) return "end";
  }
  return signal.aborted ? "stopped" : "limit";
}

function showWriting(isWriting) {
  const hadFocus = [element("write"), element("stop")].includes(document.activeElement);
  element("write").hidden = isWriting;
  element("stop").hidden = !isWriting;
  element("story").setAttribute("aria-busy", isWriting);
  if (isWriting) {
    element("below").hidden = true;
    showStatus("Writing …");
  } else if (!problem) {
    showHint();
  }
  if (hadFocus) element(isWriting ? "stop" : "write").focus({ preventScroll: true });
}

/** Says what can be done next. */
function showHint() {
  showStatus(story ? "Click a word to see why it came." : "Begin a story, then press Write.");
}

// A story that is written again, or saved

/** Sets prompt and settings, the seed too, to those of the story that is shown. */
function useSettingsOfStory() {
  const { temperature, max_new_tokens, seed } = story.sampling;
  element("prompt").value = story.prompt;
  element("temperature").value = temperature;
  element("length").value = max_new_tokens;
  element("seed").value = seed;
  element("seed-hint").textContent = SEED_HINT;
  showSettings();
  storePage();
  if (element("settings-panel").hidden) toggleSettings();
  scrollTo(0, 0); // to the settings
  showStatus("Write now gives this story again. Empty the seed for new ones.");
}

/** The title of the page and the first words, without signs that the name of a file cannot have. */
function storyFileName() {
  const firstWords = storyText().trim().split(/\s+/).slice(0, 6).join(" ");
  const parts = [document.title, firstWords].map((part) => {
    const allowed = part.replace(/[^\p{L}\p{M}\p{N}'’-]+/gu, " ").trim();
    return [...allowed].slice(0, 40).join("").trim(); // characters, not halves of them
  });
  return `${parts.filter(Boolean).join(" - ") || "story"}.txt`;
}

function saveStory() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${storyText()}\n`], { type: "text/plain" }));
  link.download = storyFileName();
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // some browsers read it later
}

// Settings

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

/** Puts the nearest seed in place of a number that is none, and says so. */
function checkSeed() {
  const field = element("seed");
  const number = field.valueAsNumber; // NaN where there is none
  const nearest = Math.min(Math.max(Math.round(number), 0), MAX_SEED);
  if (field.validity.badInput) {
    field.value = "";
    element("seed-hint").textContent = "That is not a number: each story gets a new seed.";
  } else if (field.value !== "" && number !== nearest) {
    field.value = nearest;
    element("seed-hint").textContent =
      `A seed is a whole number from 0 to ${MAX_SEED.toLocaleString("en")}: this is the nearest.`;
  }
}

/** Whether stories are stored, and whether there was room for all of them. */
function storedSentence(canStore, leftOut) {
  if (canStore && leftOut === 0) {
    return `This browser stores your last ${MAX_STORIES} stories, until you delete them.`;
  }
  const numberStored = stories.length - leftOut;
  const stored =
    numberStored === 0
      ? "stores no stories of this page"
      : `has room for only ${numberStored} of these ${stories.length} stories`;
  return `This browser ${stored}: save as text what you want to have again.`;
}

/** What is in the file, and what the browser stores of it. */
function describePage(canStore, leftOut) {
  const { name, parameters, bits } = settings();
  element("about").textContent =
    `The model “${name}” is in this file: ${parameters.toLocaleString("en")} parameters, most ` +
    `stored in ${bits} bits. Nothing is fetched, and nothing that you write is sent. ` +
    storedSentence(canStore, leftOut);
}

function listen() {
  element("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!storyteller || writing) return;
    closeWhy();
    // On a phone its keyboard would cover the story.
    if (matchMedia("(pointer: coarse)").matches) document.activeElement.blur();
    beginStory();
  });
  element("stop").addEventListener("click", () => writing?.abort());
  element("settings-button").addEventListener("click", toggleSettings);
  document.addEventListener("input", () => {
    isStored = false;
    showSettings();
  });
  document.addEventListener("change", storePage);
  element("seed").addEventListener("input", () => {
    element("seed-hint").textContent = SEED_HINT;
  });
  element("seed").addEventListener("change", checkSeed);
  element("save").addEventListener("click", saveStory);
  element("again").addEventListener("click", useSettingsOfStory);
  element("back").addEventListener("click", () => showNeighbour(-1));
  element("forward").addEventListener("click", () => showNeighbour(1));
  element("delete").addEventListener("click", deleteStories);
  element("why-close").addEventListener("click", closeWhy);
  element("story").addEventListener("keydown", onStoryKey);
  element("story").addEventListener("click", (event) => {
    const span = event.target.closest(".token");
    if (span) showWhy(Number(span.dataset.number));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") closeWhy();
  });
  // The page may be closed while something is written, and on a phone without a word.
  document.addEventListener("visibilitychange", () => {
    if (writing || !isStored) storePage();
  });
}

async function main() {
  if (problem) return; // startup.js has said what is wrong
  try {
    storyteller = await load();
    const { sampling } = settings();
    element("temperature").value = sampling.temperature;
    element("length").value = sampling.max_new_tokens;
    element("seed-hint").textContent = SEED_HINT;
    restorePage();
    showSettings();
    storePage();
    listen();
    showHint();
    element("settings-button").disabled = false;
    element("write").disabled = false;
  } catch (error) {
    explainError(error);
  }
}

addEventListener("DOMContentLoaded", main);
