// What was written, word by word, coloured by how surprising each word was.

import { rove } from "./roving.js";
import { shown } from "./text.js";

/** Classes by rank, as GLTR draws them, and by bits; each with its upper bound and what the legend says. */
const SCALES = {
  rank: [[10, "top 10"], [100, "top 100"], [1000, "top 1000"], [Infinity, "below that"]],
  bits: [[3, "up to 3 bits"], [7, "up to 7"], [11, "up to 11"], [Infinity, "more"]],
};

/** 0 for the least surprising class of a scale, 3 for the most; -1 for a word without scores. */
function surprise(word, scale) {
  const value = scale === "rank" ? word.rank : word.surprisal_bits;
  return SCALES[scale].findIndex(([bound]) => value <= bound);
}

export class Written {
  #place;
  #legend;
  #drawn = [];
  #settle;
  #scale = "rank";

  constructor(place, legend, pick) {
    this.#place = place;
    this.#legend = legend;
    this.#settle = rove(place);
    place.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) pick(Number(button.dataset.index));
    });
    this.#explain();
  }

  /** Colour by "rank" or by "bits". */
  choose(scale) {
    this.#scale = scale;
    this.#explain();
    this.#drawn.forEach((word, index) => {
      this.#place.children[index].firstChild.dataset.surprise = surprise(word, scale);
    });
  }

  /** Draw `words` of `text`; those that stand already are left as they are. */
  show(words, text) {
    const end = this.#place.scrollTop + this.#place.clientHeight >= this.#place.scrollHeight - 8;
    let same = 0;
    while (same < words.length && this.#drawn[same] === words[same]) same += 1;
    if (same === words.length && same === this.#drawn.length) return;
    while (this.#drawn.length > same) {
      this.#drawn.pop();
      this.#place.lastChild.remove();
    }
    const more = document.createDocumentFragment();
    for (const word of words.slice(same)) {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.tabIndex = -1;
      button.dataset.index = this.#drawn.length;
      button.dataset.surprise = surprise(word, this.#scale);
      button.textContent = word.word === "<eos>" ? shown(word.word) : text.slice(word.start, word.end);
      if (!word.known) button.classList.add("unknown");
      button.title = describe(word);
      item.append(button);
      more.append(item);
      this.#drawn.push(word);
    }
    this.#place.append(more);
    this.#settle();
    if (end) this.#place.scrollTop = this.#place.scrollHeight;
  }

  #explain() {
    const entries = SCALES[this.#scale].map(([, name], index) => [{ surprise: index }, name]);
    this.#legend.replaceChildren(
      ...[...entries, [{ unknown: "" }, "not in the vocabulary"]].map(([data, name]) => {
        const item = document.createElement("li");
        const swatch = document.createElement("span");
        Object.assign(swatch.dataset, data);
        swatch.textContent = "word";
        swatch.setAttribute("aria-hidden", "true");
        item.append(swatch, ` ${name}`);
        return item;
      }),
    );
  }
}

/** One line about a word. */
export function describe(word) {
  const known = word.known ? "" : "not in the vocabulary, ";
  if (word.rank === undefined) return `${known}not scored`;
  return `${known}rank ${word.rank.toLocaleString("en")}, ${word.surprisal_bits.toFixed(1)} bits`;
}

/** exp of the mean surprisal; null when there is no word that has one. */
export function perplexity(words) {
  const scored = words.filter((word) => word.rank !== undefined);
  if (scored.length === 0) return null;
  return Math.exp(-scored.reduce((sum, word) => sum + word.log_probability, 0) / scored.length);
}
