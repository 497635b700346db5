"use strict";
// This script runs first. Where no story can be written, it says why, in a sentence on the page: the
// browser is too old, the file is damaged, or a script has failed. A browser that is too old must
// understand this one, so it has no arrow functions, no `const` and no classes.

// What the other scripts need of a browser. All of it came by Chrome 92, Firefox 113, Safari 16.4.
var NEEDED = [
  { name: "DecompressionStream", isThere: "DecompressionStream" in window },
  { name: "DataView.getBigUint64", isThere: "getBigUint64" in DataView.prototype },
  { name: "Element.replaceChildren", isThere: "replaceChildren" in Element.prototype },
  { name: "Array.at", isThere: "at" in Array.prototype },
];

// The ids of the script elements that follow.
var PARTS = [
  "tokenizer.js",
  "weights.js",
  "transformer.js",
  "generation.js",
  "story.js",
  "why.js",
  "history.js",
  "page.js",
  "settings",
  "tokenizer",
  "weights",
];

var problem = ""; // what is wrong, in a sentence; empty while nothing is

function showStatus(sentence) {
  var status = document.getElementById("status");
  status.textContent = sentence;
  status.className = "";
  problem = "";
}

function showProblem(sentence) {
  showStatus(sentence);
  document.getElementById("status").className = "problem";
  problem = sentence;
}

/** The first problem is the one to be shown: those after it follow from it. */
function showFirstProblem(sentence) {
  if (!problem) showProblem(sentence);
}

function checkBrowser() {
  NEEDED.forEach(function (feature) {
    if (feature.isThere) return;
    showFirstProblem(
      "This browser is too old to write stories: it has no " + feature.name + ". Open the file " +
        "in Chrome 92, Firefox 113, Safari 16.4 or a later version."
    );
  });
}

function checkParts() {
  if (!document.getElementById("end")) {
    showFirstProblem(
      "The end of this file is missing, as after a download that broke off. Ask for it once more."
    );
  }
  PARTS.forEach(function (id) {
    if (document.getElementById(id)) return;
    showFirstProblem(
      "This file is damaged: its part “" + id + "” is missing. Ask for it once more."
    );
  });
}

/** Of an error that no other script has explained. The console says where it happened. */
function onError(message) {
  showFirstProblem(
    "A script of this page has failed (" + message + "). Reload the page; if that does not help, " +
      "ask for the file once more, or open it in a newer browser."
  );
}

addEventListener("error", function (event) {
  onError(event.message);
});
addEventListener("unhandledrejection", function (event) {
  onError(event.reason);
});
addEventListener("DOMContentLoaded", checkParts);

showStatus("Unpacking the model …");
checkBrowser();
