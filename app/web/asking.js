// Asking about the text: typing never waits for it, and only the newest text is asked about.

import { split } from "./text.js";

const COUNT = 10; // predictions in the list

export class Asking {
	#page;
	#round = null; // the promise of the calls under way
	#alone = null; // the promise of something else than typing that changes the text
	#stale = false; // the text has changed since the call under way was made

	/**
	 * page.now() is {text, reader}; told are waiting(), reading(share), answered(reply, reader, typed), with `typed` null
	 * when the text has changed since, refused(error), and rested() when nothing is under way any more.
	 */
	constructor(page) {
		this.#page = page;
	}

	/** While a call is under way, one more follows it at most. */
	ask() {
		this.#stale = true;
		this.#page.waiting();
		this.#round ??= this.#run().finally(() => {
			this.#round = null;
			if (!this.#alone) this.#page.rested();
		});
	}

	get busy() {
		return Boolean(this.#round ?? this.#alone);
	}

	get held() {
		return this.#alone !== null;
	}

	/** Run `work`, which changes the text, and ask about what comes of it, unless there is such work already. */
	async alone(work) {
		if (this.#alone) return;
		this.#alone = Promise.resolve(this.#round).then(work);
		this.#page.waiting();
		const failed = await this.#alone.then(() => null, (error) => error);
		this.#alone = null;
		if (!failed) return this.ask();
		this.#page.rested();
		this.#page.refused(failed);
	}

	/** Until the session stands where the page believes it to be. */
	async quiet() {
		await this.#alone?.catch(() => {});
		await this.#round;
	}

	async #run() {
		try {
			while (this.#stale && !this.#alone) {
				this.#stale = false;
				const { text, reader } = this.#page.now();
				const { finished, typed } = split(text);
				const reply = await reader.follow(finished, typed, COUNT, this.#page.reading);
				this.#page.answered(reply, reader, this.#stale ? null : typed);
			}
		} catch (error) {
			this.#page.refused(error);
		}
	}
}
