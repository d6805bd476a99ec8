// The branches of a text: each a session of its own, forked from a word of another.

import { rove } from "./roving.js";
import { made } from "./strip.js";

const SHOWN = 48; // characters of a branch's end that its button shows

export class Branches {
	#place;
	#settle;
	all = []; // {reader, text, parent, at}, `at` being the position in the parent where it begins
	current = null;

	constructor(place, pick) {
		this.#place = place;
		this.#settle = rove(place, { ArrowUp: -1, ArrowDown: 1 });
		place.addEventListener("click", (event) => {
			const branch = this.all[event.target.closest("button")?.dataset.index];
			if (branch && branch !== this.current) pick(branch);
		});
	}

	/** A new branch, the current one from now on. */
	add(reader, text, parent = null, at = 0) {
		this.all.push({ reader, text, parent, at });
		this.choose(this.all.at(-1));
	}

	choose(branch) {
		this.current = branch;
		this.draw();
	}

	/** The current branch becomes the only one; the server forgets the others, too. */
	prune() {
		for (const { reader } of this.all) if (reader !== this.current.reader) reader.forget();
		this.all = [];
		this.add(this.current.reader, this.current.text);
	}

	draw() {
		this.#place.closest("section").hidden = this.all.length < 2;
		if (this.all.length < 2) return;
		const focused = document.activeElement.closest("#branches button")?.dataset.index;
		this.#place.replaceChildren(...this.#below(null));
		this.#settle(this.#place.querySelector("[aria-current=true]"));
		if (focused) this.#place.querySelector(`[data-index="${focused}"]`)?.focus();
	}

	#below(parent) {
		return this.all
			.filter((branch) => branch.parent === parent)
			.map((branch) => {
				const text = branch.text.trimEnd();
				const end = text.length > SHOWN ? `…${text.slice(-SHOWN)}` : text;
				const button = made("button", "", `${branch.parent ? `from word ${branch.at}: ` : ""}${end || "(nothing yet)"}`);
				Object.assign(button, { type: "button", tabIndex: -1, ariaCurrent: branch === this.current });
				button.dataset.index = this.all.indexOf(branch);
				const [item, list] = [made("li"), made("ul")];
				list.append(...this.#below(branch));
				item.append(button, list);
				return item;
			});
	}
}
