// What went wrong looks like something, says what to do, and goes away when it is over.

import { LOST } from "./reader.js";

const NOTE_SECONDS = 8;

export class Notices {
	#place;
	#actions;
	#timer = null;

	/** actions: {retry(), key(value), keyed()}, the last telling whether there is a key. */
	constructor(place, actions) {
		this.#place = place;
		this.#actions = actions;
	}

	/** The server has answered: what was wrong is over. */
	clear() {
		if (this.#place.dataset.kind !== "note") this.#remove();
	}

	/** Something to know; with `more`, an element, it stays longer. */
	tell(text, ...more) {
		this.#show("note", text, ...more);
		this.#timer = setTimeout(() => this.#remove(), 1000 * NOTE_SECONDS * (1 + 3 * more.length));
	}

	refused({ status, retryAfter, message }) {
		const wait = retryAfter ?? (status === 0 ? 1 : 2);
		const soon = `Going on in ${wait} s…`;
		if (status === 401) return this.#askForKey();
		if (LOST.includes(status)) return this.#offer();
		if (status === 0) this.#show("offline", "The server does not answer. Your text is safe here; trying again…");
		else if (status === 429) this.#show("busy", `Too many requests: the server asks for a pause. ${soon}`);
		else if (status === 503) this.#show("busy", `The server is busy or starting. ${soon}`);
		else return this.#show("error", `That did not work (${status}): ${message}`);
		this.#timer = setTimeout(this.#actions.retry, 1000 * wait);
	}

	#remove() {
		clearTimeout(this.#timer);
		this.#place.replaceChildren();
		delete this.#place.dataset.kind;
	}

	#show(kind, text, ...more) {
		clearTimeout(this.#timer);
		// Or a screen reader would repeat it at every key.
		if (this.#place.dataset.kind === kind && this.#place.firstChild.textContent === text) return;
		this.#place.dataset.kind = kind;
		const line = document.createElement("p");
		line.textContent = text;
		this.#place.replaceChildren(line, ...more);
	}

	#offer() {
		const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Read it again" });
		button.addEventListener("click", this.#actions.retry);
		this.#show("expired", "This session has expired, or has gone on elsewhere. Its text is here.", button);
	}

	#askForKey() {
		if (this.#place.dataset.kind === "key") return;
		const form = document.getElementById("key").content.firstElementChild.cloneNode(true);
		const [input] = form.elements;
		form.addEventListener("submit", (event) => {
			event.preventDefault();
			this.#remove();
			this.#actions.key(input.value.trim());
		});
		const why = this.#actions.keyed() ? "This server does not know that key." : "This server wants a key.";
		this.#show("key", `${why} It is kept in this tab only.`, form);
		input.focus();
	}
}
