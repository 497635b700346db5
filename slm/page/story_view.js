// One story. While it is written it is plain text. Afterwards a word can be chosen, with the mouse
// or with the arrow keys and Enter: then a panel shows what else might have come, and the words
// that the model listened to are coloured. Everything is put in as text, never as HTML.

export default function ({ data, parentElement }) {
  const view = parentElement.querySelector(".view");
  const shown = JSON.stringify(data);
  if (view.shown === shown) return; // the same story: what is chosen stays chosen
  view.shown = shown;
  const text = data.tokens.length ? wordsOf(data) : plainText(data);
  view.replaceChildren(text);
  if (data.tokens.length) makeClickable(view, text, data.tokens);
}

function element(tag, name, content = "") {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = content;
  return made;
}

// The story while it is written: what was given is bold.
function plainText({ text, given, running }) {
  const story = element("div", "story");
  story.setAttribute("aria-busy", running);
  story.append(element("b", "", text.slice(0, given)), text.slice(given));
  return story;
}

// The finished story: each token an element of its own.
function wordsOf({ tokens, given, rest }) {
  const story = element("div", "story");
  story.setAttribute("role", "group");
  story.setAttribute("aria-label", "The story. Arrow keys move from word to word, Enter explains one.");
  let start = 0;
  tokens.forEach((token, index) => {
    // The space before a word lies outside, so that the word alone is marked.
    const space = token.text.trim() ? token.text.match(/^\s*/)[0] : "";
    const name = start < given ? "word given" : "word";
    const word = element("span", name, token.text.slice(space.length));
    word.tabIndex = index === 0 ? 0 : -1; // one stop for Tab; arrow keys reach the others
    word.dataset.index = index;
    word.style.setProperty("--chance", token.chance);
    story.append(space, word);
    start += token.text.length;
  });
  const tail = element("span", "rest", rest);
  tail.title = "Too far from the beginning to be explained.";
  story.append(tail);
  return story;
}

function makeClickable(view, story, tokens) {
  const words = [...story.querySelectorAll(".word")];
  const hint = element("p", "hint", "Click a word to see why it came.");
  const panel = element("section", "panel");
  panel.setAttribute("aria-live", "polite");
  panel.hidden = true;
  view.append(hint, sureness(story), panel);

  const close = () => {
    panel.hidden = true;
    story.classList.remove("asking");
    unmark(words);
  };
  const choose = (word) => {
    const again = word.classList.contains("chosen");
    close();
    if (again) return;
    const token = tokens[word.dataset.index];
    mark(words, word, token.listened);
    story.classList.add("asking");
    panel.replaceChildren(...panelContent(token, close));
    panel.hidden = false;
    word.style.scrollMarginBottom = `${panel.offsetHeight + 24}px`; // the panel must not cover it
    word.scrollIntoView({ block: "nearest" });
  };
  const focus = (index) => {
    const word = words[Math.min(Math.max(index, 0), words.length - 1)];
    words.forEach((other) => (other.tabIndex = other === word ? 0 : -1));
    word.focus();
  };

  story.onclick = ({ target }) => {
    if (!target.classList.contains("word")) return;
    focus(Number(target.dataset.index));
    choose(target);
  };
  story.onkeydown = (event) => {
    const word = event.target;
    if (!word.classList.contains("word")) return;
    const index = Number(word.dataset.index);
    const actions = {
      ArrowRight: () => focus(index + 1),
      ArrowLeft: () => focus(index - 1),
      Home: () => focus(0),
      End: () => focus(words.length - 1),
      Enter: () => choose(word),
      " ": () => choose(word),
      Escape: close,
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  };
}

// The word that was chosen, and those that were listened to, the more the stronger.
function mark(words, chosen, listened) {
  chosen.classList.add("chosen");
  for (const [index, share] of listened) {
    words[index].classList.add("listened");
    words[index].style.setProperty("--share", share);
  }
}

function unmark(words) {
  words.forEach((word) => word.classList.remove("chosen", "listened"));
}

// A switch that colours all words by their chances.
function sureness(story) {
  const label = element("label", "sureness");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.onchange = () => story.classList.toggle("sure", box.checked);
  label.append(box, " Colour the words: the bluer, the surer the model was");
  return label;
}

function panelContent(token, close) {
  const button = element("button", "close", "✕");
  button.setAttribute("aria-label", "Close");
  button.onclick = close;
  const content = [button, element("p", "sentence", token.sentence), bars(token.alternatives)];
  if (token.listened.length) {
    content.push(element("p", "legend", "Orange: what the model listened to when it chose this."));
  }
  return content;
}

function bars(alternatives) {
  const table = element("div", "bars");
  for (const [name, chance, percent, came] of alternatives) {
    const row = element("div", came ? "row came" : "row");
    const bar = element("span", "bar");
    bar.style.setProperty("--width", `${100 * chance}%`);
    row.append(element("span", "name", name), bar, element("span", "chance", percent));
    table.append(row);
  }
  return table;
}
