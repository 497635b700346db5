"use strict";
// Nothing is lost: earlier stories can be seen again, and the browser stores them with the prompt
// and the settings, so that they are there when the page is opened again.

const MAX_STORIES = 20;
const STORAGE_FORMAT = 1; // to be changed with the shape of what is stored: older ones are ignored
const STORED_FIELDS = ["prompt", "temperature", "length", "seed"];

let stories = []; // the one before and the one after are neighbours
let storyNumber = -1; // of the story that is shown
let isStored = true; // whether anything was changed since the page was stored

/** Puts a story after the one that is shown, which is then the story before. Of too many the oldest
 * is left out, or the next one where the oldest is the story before. */
function addStory(nextStory) {
  storyNumber += 1;
  stories.splice(storyNumber, 0, nextStory);
  if (stories.length > MAX_STORIES) {
    const leftOut = storyNumber === 1 ? 2 : 0;
    stories.splice(leftOut, 1);
    if (leftOut < storyNumber) storyNumber -= 1;
  }
}

/** Shows another of the stories: 1 is the one after the story that is shown, -1 the one before. */
function showNeighbour(step) {
  if (writing) return;
  closeWhy();
  showFinished(storyNumber + step);
  showHint();
  storePage();
}

function showFinished(number) {
  storyNumber = number;
  drawStory(stories[number]);
  drawEnding();
  showNeighbourButtons();
}

/** Shows the buttons that lead to other stories only where there are such stories. */
function showNeighbourButtons() {
  element("back").hidden = storyNumber <= 0;
  element("forward").hidden = storyNumber >= stories.length - 1;
}

function deleteStories() {
  if (writing || !confirm("Delete all stories of this page?")) return;
  closeWhy();
  clearStories();
  storePage();
  showHint();
}

function clearStories() {
  stories = [];
  storyNumber = -1;
  story = null;
  element("story").replaceChildren();
  element("below").hidden = true;
}

/** The name under which this page stores things. All pages that are opened from a disk may share one
 * storage, so it names the model: another one would read the ids of the tokens as other words. */
function storageKey() {
  return `slm story-teller ${STORAGE_FORMAT} ${settings().fingerprint}`;
}

/** Stores what the page shows, and says on the page what the browser has taken. The oldest stories
 * are left out where there is no room for all. */
function storePage() {
  const fields = STORED_FIELDS.map((id) => [id, element(id).value]);
  const content = { fields, colours: element("colours").checked };
  for (let oldest = 0; oldest <= stories.length; oldest++) {
    content.stories = stories.slice(oldest);
    content.storyNumber = storyNumber - oldest;
    if (store(content)) {
      isStored = true;
      describePage(true, oldest);
      return;
    }
  }
  describePage(false, stories.length);
}

function store(content) {
  // Four decimals of a probability are as many as are shown, and take half the room.
  const shorten = (key, value) => (key === "probability" ? Number(value.toFixed(4)) : value);
  try {
    localStorage.setItem(storageKey(), JSON.stringify(content, shorten));
    return true;
  } catch {
    return false; // it is full, or this browser has none for a page that is opened from a disk
  }
}

/** Shows the page as it was when it was closed, where the browser has stored it. */
function restorePage() {
  try {
    const content = JSON.parse(localStorage.getItem(storageKey()));
    if (!content) return;
    for (const [id, value] of content.fields) element(id).value = value;
    element("colours").checked = content.colours;
    stories = content.stories;
    if (stories.length) showFinished(Math.max(content.storyNumber, 0));
  } catch {
    clearStories(); // the page begins empty where nothing is stored that it can read
  }
}
