// What was written, word by word, coloured by how surprising each word was.

import { rove } from "./roving.js";
import { made } from "./strip.js";
import { number, percent, shown } from "./text.js";

// The upper bounds of the classes: by rank, as in GLTR, and by bits. The page's legends name them.
const RANKS = [10, 100, 1000, Infinity];
const BITS = [3, 7, 11, Infinity];

export class Written {
	#place;
	#settle;
	#drawn = [];

	constructor(place, pick) {
		this.#place = place;
		this.#settle = rove(place);
		place.addEventListener("click", (event) => {
			const button = event.target.closest("button");
			if (button) pick([...place.children].indexOf(button.parentElement));
		});
	}

	/** Draw `words` of `text`; those that stand already are left as they are. */
	show(words, text) {
		const end = this.#place.scrollTop + this.#place.clientHeight >= this.#place.scrollHeight - 8;
		let same = 0;
		while (same < words.length && this.#drawn[same] === words[same]) same += 1;
		if (same === words.length && same === this.#drawn.length) return;
		for (const _ of this.#drawn.splice(same)) this.#place.lastChild.remove();
		const more = words.slice(same).map((word) => {
			const item = made("li");
			const name = word.word === "<eos>" ? shown(word.word) : text.slice(word.start, word.end);
			const button = made("button", word.known ? "" : "unknown", name);
			Object.assign(button, { type: "button", tabIndex: -1, title: describe(word) });
			Object.assign(button.dataset, surprise(word));
			item.append(button);
			return item;
		});
		this.#drawn = [...words];
		this.#place.append(...more);
		this.#settle();
		if (end) this.#place.scrollTop = this.#place.scrollHeight;
	}
}

/** How surprising a word is, {rank, bits}: from 0, the least, to 3; -1 without scores. */
export function surprise(word) {
	const place = (bounds, value) => bounds.findIndex((bound) => value <= bound);
	return { rank: place(RANKS, word?.rank), bits: place(BITS, word?.surprisal_bits) };
}

/** One line about a word. */
export function describe(word) {
	const known = word.known ? "" : "not in the vocabulary, ";
	if (word.rank === undefined) return `${known}not scored`;
	return `${known}rank ${number(word.rank)}, ${word.surprisal_bits.toFixed(1)} bits, ${percent(word.probability)}`;
}

/** exp of the mean surprisal of the words that have one. */
export function perplexity(words) {
	const scored = words.filter(({ rank }) => rank !== undefined);
	return Math.exp(-scored.reduce((sum, { log_probability }) => sum + log_probability, 0) / scored.length);
}
