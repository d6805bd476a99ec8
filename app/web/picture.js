// Brings the picture of the network, and the comparison with a fresh one, to where the session is.

import { entry, longest } from "./strip.js";
import { shown, split } from "./text.js";

const TRACED = 24; // steps that are drawn when a session is opened
const FRESH = 10; // predictions of the network that remembers nothing

export class Picture {
	#now;
	#unrolled;
	#places;
	#compared = ""; // the word, and the beginning of the next, that were last compared
	#drawing = null; // the promise of its end

	/** now() is {text, reader}; places: {fresh, alone}, a list and what stands above it. */
	constructor(now, unrolled, places) {
		this.#now = now;
		this.#unrolled = unrolled;
		this.#places = places;
	}

	draw() {
		return (this.#drawing ??= this.#follow());
	}

	async #follow() {
		try {
			for (let before = null; before !== this.#stand; ) {
				before = this.#stand;
				const { reader, text } = this.#now();
				await this.#trace(reader);
				await this.#compare(reader, split(text).typed);
			}
		} catch (error) {
			if (error.status === undefined) throw error;
		} finally {
			this.#drawing = null;
		}
	}

	get #stand() {
		const { text, reader } = this.#now();
		return [reader.session, reader.position, text].join();
	}

	async #trace(reader) {
		const { position, session, words } = reader;
		this.#unrolled.cut(position);
		let missing = 0;
		while (missing < Math.min(TRACED, words.length) && !this.#unrolled.step(position - missing)) missing += 1;
		if (!missing || !session) return;
		if (missing === TRACED) this.#unrolled.clear(); // so that no step is left out in between
		const trace = await reader.trace(missing);
		// The session may have gone on meanwhile: its last words are then other ones.
		if (session === this.#now().reader.session && trace.position === position) this.#unrolled.add(trace.words);
	}

	/** What a network that has read nothing else would expect. */
	async #compare(reader, typed) {
		const word = reader.words.at(-1)?.word;
		const compared = `${word} ${typed}`;
		if (compared === this.#compared) return;
		const { predictions } = await reader.fresh(word === undefined ? [] : [word], FRESH, typed);
		this.#compared = compared;
		const { fresh, alone } = this.#places;
		alone.textContent = word === undefined ? "nothing read yet" : `after “${shown(word)}” alone`;
		fresh.replaceChildren(...predictions.map((one) => entry(one, longest(predictions))));
	}
}
