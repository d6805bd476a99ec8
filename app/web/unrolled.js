// The network unrolled in time, as the textbook draws it: words below, a strip of h_t for each layer, what may come
// next on top; time runs to the right.

import { rove } from "./roving.js";
import { bar, longest } from "./strip.js";
import { percent, shown } from "./text.js";

const BARS = 3;
const KEPT = 400; // steps that stay drawn; older ones are looked up when their word is clicked

/** The colour of a hidden unit in [-1, 1]: blue, through the colour of the page, to orange. */
function colour(value, dark) {
  const strength = Math.min(1, Math.abs(value)) ** 0.7;
  const target = value < 0 ? [33, 102, 172] : [217, 95, 2];
  const ground = dark ? [24, 33, 42] : [255, 255, 255];
  return ground.map((from, index) => Math.round(from + (target[index] - from) * strength));
}

function heat(bins, dark) {
  const canvas = document.createElement("canvas");
  canvas.width = 1;
  canvas.height = bins.length;
  canvas.setAttribute("aria-hidden", "true");
  const context = canvas.getContext("2d");
  const image = context.createImageData(1, bins.length);
  bins.forEach((value, index) => image.data.set([...colour(value, dark), 255], 4 * index));
  context.putImageData(image, 0, 0);
  return canvas;
}

export class Unrolled {
  #place;
  #empty;
  #settle;
  #dark = matchMedia("(prefers-color-scheme: dark)");
  #steps = new Map(); // position -> {step, element}, in the order of time

  constructor(place, empty, pick) {
    this.#place = place;
    this.#empty = empty;
    this.#settle = rove(place);
    place.addEventListener("click", (event) => {
      const step = event.target.closest("[data-position]");
      if (step) pick(Number(step.dataset.position));
    });
    this.#dark.addEventListener("change", () => {
      const steps = [...this.#steps.values()].map(({ step }) => step);
      this.clear();
      this.add(steps);
    });
  }

  clear() {
    this.cut(0);
  }

  /** Forget the steps after `position`. */
  cut(position) {
    for (const [at, { element }] of this.#steps) {
      if (at <= position) continue;
      element.remove();
      this.#steps.delete(at);
    }
    this.#changed();
  }

  has(position) {
    return this.#steps.has(position);
  }

  /** What was expected after the word at `position`, if that step is drawn. */
  predictions(position) {
    return this.#steps.get(position)?.step.predictions;
  }

  /**
   * Steps that follow those drawn, in the order of time: {position, word, known, predictions, layers}, each layer
   * {name, size, values}, at most 64 of them.
   */
  add(steps) {
    for (const step of steps) {
      if (this.#steps.has(step.position)) continue;
      const element = this.#draw(step);
      this.#place.append(element);
      this.#steps.set(step.position, { step, element });
    }
    for (const [at, { element }] of this.#steps) {
      if (this.#steps.size <= KEPT) break;
      element.remove();
      this.#steps.delete(at);
    }
    this.#changed();
    this.#place.scrollLeft = this.#place.scrollWidth;
  }

  /** The step at `position` comes into view and is marked; 0: none is. */
  mark(position) {
    for (const [at, { element }] of this.#steps) element.classList.toggle("marked", at === position);
    const step = this.#steps.get(position)?.element;
    if (!step) return;
    const [left, width] = [step.offsetLeft - this.#place.offsetLeft, step.offsetWidth];
    const { scrollLeft, clientWidth } = this.#place;
    if (left < scrollLeft || left + width > scrollLeft + clientWidth) this.#place.scrollLeft = left - clientWidth / 2;
  }

  #changed() {
    this.#place.hidden = this.#steps.size === 0;
    this.#empty.hidden = this.#steps.size > 0;
    this.#settle();
  }

  #draw({ position, word, known, predictions, layers }) {
    const element = document.createElement("li");
    element.dataset.position = position;
    const next = document.createElement("ol");
    next.className = "next";
    for (const { word: one, probability } of predictions.slice(0, BARS)) {
      const item = document.createElement("li");
      const name = document.createElement("span");
      name.className = "word";
      name.textContent = shown(one);
      item.title = `${shown(one)} ${percent(probability)}`;
      item.append(bar(probability / longest(predictions)), name);
      next.append(item);
    }
    const strips = layers.map(({ name, size, values }, index) => {
      const layer = document.createElement("div");
      layer.className = "layer";
      layer.title = `${name}, layer ${index + 1}: ${size} units after word ${position}`;
      layer.append(heat(values, this.#dark.matches));
      return layer;
    });
    const button = document.createElement("button");
    button.type = "button";
    button.tabIndex = -1;
    button.textContent = shown(word);
    button.classList.toggle("unknown", !known);
    button.title = `${shown(word)}, word ${position}`;
    element.append(next, ...strips.reverse(), button);
    return element;
  }
}
