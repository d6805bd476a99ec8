// The page: typing never waits for the server, and only the newest text is asked about.

import { Reader } from "./reader.js";
import { shown, split, take } from "./text.js";

const COUNT = 10;
const element = (id) => document.getElementById(id);
const text = element("text");
const suggestions = element("suggestions");
const notice = element("notice");
const reader = new Reader();

let asking = false;
let stale = false;
let best = null;
let leaving = false; // Esc was pressed: the next Tab moves the focus

async function ask() {
  stale = true;
  if (asking) return;
  asking = true;
  while (stale) {
    stale = false;
    const { finished, typed } = split(text.value);
    const started = performance.now();
    try {
      const reply = await reader.predict(finished, typed, COUNT);
      if (!stale) show(reply, performance.now() - started);
    } catch (error) {
      complain(error);
    }
  }
  asking = false;
}

function show(reply, milliseconds) {
  notice.hidden = true;
  best = reply.predictions[0]?.word ?? null;
  suggestions.replaceChildren(...reply.predictions.map(row));
  element("session").textContent = reply.session_id;
  element("position").textContent = reply.position.toLocaleString("en");
  element("latency").textContent = `${milliseconds.toFixed(1)} ms`;
  element("model").textContent = reply.model;
}

function row({ word, probability }) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.word = word;
  const bar = document.createElement("meter");
  bar.value = probability;
  bar.setAttribute("aria-hidden", "true");
  const name = document.createElement("span");
  name.textContent = shown(word);
  const figure = document.createElement("span");
  figure.className = "probability";
  figure.textContent = `${(100 * probability).toFixed(1)} %`;
  button.append(bar, name, figure);
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function complain(error) {
  suggestions.replaceChildren();
  best = null;
  notice.textContent = error.message;
  notice.hidden = false;
}

function accept(word) {
  text.value = take(text.value, word);
  text.focus();
  ask();
}

text.addEventListener("input", ask);
text.addEventListener("keydown", (event) => {
  if (event.key === "Tab" && !event.shiftKey && !leaving && best !== null) {
    event.preventDefault();
    accept(best);
  }
  leaving = event.key === "Escape";
});
suggestions.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) accept(button.dataset.word);
});
element("forget").addEventListener("click", () => {
  text.value = "";
  reader.forget();
  text.focus();
  ask();
});

ask();
