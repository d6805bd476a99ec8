// The suggestions: three under the caret, the likeliest in the middle, and the longer list beside the text.

import { percent, shown } from "./text.js";

const MIDDLE = [1, 0, 2]; // the ranks of the three, from left to right

export class Suggestions {
  #strip;
  #list;
  #box;
  #predictions = [];
  active = -1; // the row of the list that arrows have reached

  constructor({ strip, list, box, take }) {
    this.#strip = strip;
    this.#list = list;
    this.#box = box;
    for (const place of [strip, list]) {
      // The text keeps the focus, and a phone its keyboard.
      place.addEventListener("mousedown", (event) => event.preventDefault());
      place.addEventListener("click", (event) => {
        const word = event.target.closest("[data-word]")?.dataset.word;
        if (word !== undefined) take(word);
      });
    }
  }

  /** The likeliest word, or null when none is offered. */
  get best() {
    return this.#strip.hidden ? null : (this.#predictions[0]?.word ?? null);
  }

  /** The word that arrows have reached, or null. */
  get chosen() {
    return this.#predictions[this.active]?.word ?? null;
  }

  show(predictions) {
    this.#predictions = predictions;
    this.active = -1;
    this.#box.removeAttribute("aria-activedescendant");
    const three = MIDDLE.filter((rank) => rank < predictions.length);
    this.#strip.replaceChildren(...three.map((rank, place) => chip(predictions[rank], rank, place)));
    const full = longest(predictions);
    this.#list.replaceChildren(...predictions.map((prediction, index) => row(prediction, index, full)));
  }

  /** Whether the strip stands under the caret. */
  offer(yes) {
    this.#strip.hidden = !yes || this.#predictions.length === 0;
  }

  /** The word on place 1, 2 or 3 of the strip, or null. */
  at(place) {
    return this.#strip.hidden ? null : (this.#strip.children[place - 1]?.dataset.word ?? null);
  }

  /** Walk the list by one; past either end the walk is over. */
  walk(by) {
    const rows = [...this.#list.children];
    if (rows.length === 0) return false;
    rows[this.active]?.setAttribute("aria-selected", "false");
    this.active = this.active < 0 && by < 0 ? rows.length - 1 : this.active + by;
    if (this.active < 0 || this.active >= rows.length) this.active = -1;
    const row = rows[this.active];
    row?.setAttribute("aria-selected", "true");
    row?.scrollIntoView({ block: "nearest" });
    if (row) this.#box.setAttribute("aria-activedescendant", row.id);
    else this.#box.removeAttribute("aria-activedescendant");
    return true;
  }
}

function chip({ word, probability }, rank, place) {
  const button = document.createElement("button");
  button.type = "button";
  button.tabIndex = -1; // the keys for it are Tab and Alt+1..3
  button.dataset.word = word;
  button.className = rank === 0 ? "best" : "";
  button.title = `${shown(word)} ${percent(probability)} · Alt+${place + 1}`;
  const name = document.createElement("span");
  name.className = "word";
  name.textContent = shown(word);
  const figure = document.createElement("small");
  figure.textContent = percent(probability);
  button.append(name, figure);
  return button;
}

/** A line of a list: the word over its bar, and its probability; `full` is what a whole bar stands for. */
export function entry({ word, probability }, full) {
  const item = document.createElement("li");
  item.title = shown(word);
  item.append(bar(probability / full), part("word", shown(word)), part("figure", percent(probability)));
  return item;
}

function row(prediction, index, full) {
  const item = entry(prediction, full);
  item.id = `prediction-${index}`;
  item.setAttribute("role", "option");
  item.setAttribute("aria-selected", "false");
  item.dataset.word = prediction.word;
  return item;
}

function part(kind, text) {
  const span = document.createElement("span");
  span.className = kind;
  span.textContent = text;
  return span;
}

/** The probability that a whole bar stands for: in a flat distribution bars would hardly be seen otherwise. */
export const longest = (predictions) => Math.max(0.1, predictions[0]?.probability ?? 0);

/** A bar over a `share` of its place. */
export function bar(share) {
  const span = part("bar", "");
  span.style.setProperty("--share", share);
  return span;
}

/** A function that puts `strip` under the caret of `box`, by way of a copy of its text that is set the same way. */
export function follow(strip, box) {
  const mirror = document.createElement("div");
  mirror.className = "mirror";
  mirror.setAttribute("aria-hidden", "true");
  box.parentElement.append(mirror);
  return () => {
    const before = box.value.slice(0, box.selectionEnd);
    // Of a long text the last lines are enough to know where the caret is in its line.
    const line = before.lastIndexOf("\n", before.length - 400) + 1;
    const mark = document.createElement("span");
    mark.textContent = "\u200b";
    mirror.replaceChildren(before.slice(line), mark);
    const width = box.clientWidth;
    mirror.style.width = `${width}px`;
    const left = Math.min(mark.offsetLeft, Math.max(0, width - strip.offsetWidth - 8));
    const below = mark.offsetTop + mark.offsetHeight;
    // The strip stands at the end of the text: of a text that does not fit, that is the last line in view.
    const top = line === 0 ? below - box.scrollTop : box.scrollHeight - box.scrollTop - parseFloat(getComputedStyle(box).paddingBottom);
    strip.style.setProperty("--left", `${left}px`);
    strip.style.setProperty("--top", `${Math.max(0, Math.min(top, box.clientHeight - strip.offsetHeight - 4))}px`);
  };
}
