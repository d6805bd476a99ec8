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
		return this.#strip.hidden ? null : this.#predictions[0].word;
	}

	/** The word that arrows have reached, or null. */
	get chosen() {
		return this.#predictions[this.active]?.word ?? null;
	}

	/** The word on place 1, 2 or 3 of the strip, or null. */
	at(place) {
		return this.#strip.hidden ? null : (this.#strip.children[place - 1]?.dataset.word ?? null);
	}

	show(predictions) {
		this.#predictions = predictions;
		const three = MIDDLE.filter((rank) => rank < predictions.length);
		this.#strip.replaceChildren(...three.map((rank, place) => chip(predictions[rank], rank, place)));
		const full = longest(predictions);
		this.#list.replaceChildren(...predictions.map((prediction, index) => row(prediction, index, full)));
		this.reach(-1);
	}

	/** Whether the strip stands under the caret. */
	offer(yes) {
		this.#strip.hidden = !yes || this.#predictions.length === 0;
	}

	/** Walk the list by one; past either end the walk is over. */
	walk(by) {
		const { length } = this.#predictions;
		const next = this.active < 0 && by < 0 ? length - 1 : this.active + by;
		this.reach(next < length ? next : -1);
		return length > 0;
	}

	/** Have the arrows stand on a row; -1 is none. */
	reach(index) {
		this.#list.children[this.active]?.setAttribute("aria-selected", "false");
		this.active = index;
		const row = this.#list.children[index];
		if (!row) {
			this.#box.removeAttribute("aria-activedescendant");
			return;
		}
		row.setAttribute("aria-selected", "true");
		row.scrollIntoView({ block: "nearest" });
		this.#box.setAttribute("aria-activedescendant", row.id);
	}
}

export function made(name, kind = "", text = "") {
	return Object.assign(document.createElement(name), { className: kind, textContent: text });
}

function chip({ word, probability }, rank, place) {
	const button = made("button", rank === 0 ? "best" : "");
	const title = `${shown(word)} ${percent(probability)} · Alt+${place + 1}`;
	Object.assign(button, { type: "button", tabIndex: -1, title }); // the keys for it are Tab and Alt+1..3
	button.dataset.word = word;
	button.append(made("span", "word", shown(word)), made("small", "", percent(probability)));
	return button;
}

/** A line of a list: the word over its bar, and its probability; `full` is what a whole bar stands for. */
export function entry({ word, probability }, full) {
	const item = made("li");
	item.title = shown(word);
	item.append(bar(probability / full), made("span", "word", shown(word)), made("span", "figure", percent(probability)));
	return item;
}

function row(prediction, index, full) {
	const item = entry(prediction, full);
	Object.assign(item, { id: `prediction-${index}`, role: "option", ariaSelected: "false" });
	item.dataset.word = prediction.word;
	return item;
}

/** The probability that a whole bar stands for: in a flat distribution bars would hardly be seen. */
export const longest = (predictions) => Math.max(0.1, predictions[0]?.probability ?? 0);

/** A bar over a `share` of its place. */
export function bar(share, kind = "bar") {
	const span = made("span", kind);
	span.style.setProperty("--share", share);
	return span;
}
