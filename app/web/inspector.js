// A word that was read: what was expected there, and the ways to go on from it.

import { percent, shown } from "./text.js";
import { describe } from "./written.js";

const EXPECTED = 5; // words that are named

export class Inspector {
	#place;
	#unrolled;
	#position = 0; // of the word that is looked at

	/** ways: what the buttons of `place` do, {rewind(position), branch(position)}. */
	constructor(place, unrolled, ways) {
		this.#place = place;
		this.#unrolled = unrolled;
		place.addEventListener("click", ({ target: { dataset } }) => {
			if (dataset.way === "close") this.close(true);
			else if (dataset.way) ways[dataset.way](this.#position);
		});
		place.addEventListener("keydown", ({ key }) => {
			if (key === "Escape") this.close(true);
		});
	}

	close(back = false) {
		if (this.#place.hidden) return;
		this.#place.hidden = true;
		const step = this.#unrolled.mark(0);
		if (back) step?.focus();
	}

	/** Look at the word of `reader` that ends at `position`. */
	async open(reader, position) {
		const word = reader.words[position - reader.first - 1];
		if (!word) return;
		this.#position = position;
		const [title, expected] = this.#place.children;
		title.textContent = `“${shown(word.word)}”, word ${position}: ${describe(word)}.`;
		expected.textContent = "…";
		this.#place.hidden = false;
		this.#unrolled.mark(position);
		this.#place.scrollIntoView({ block: "nearest" });
		const drawn = this.#unrolled.step(position - 1)?.predictions;
		const predictions = drawn ?? (await reader.earlier(position - 1, EXPECTED).catch(() => [])); // too long ago
		if (position !== this.#position) return;
		const named = predictions.slice(0, EXPECTED).map(({ word: one, probability: p }) => `“${shown(one)}” ${percent(p)}`);
		expected.textContent = `Expected there: ${named.join(", ") || "that is not known any more"}.`;
	}
}
