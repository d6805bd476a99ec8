// The network unrolled in time: words below, a strip of h_t for each layer, what may come next on top.

import { heat } from "./heat.js";
import { rove } from "./roving.js";
import { bar, longest, made } from "./strip.js";
import { percent, shown } from "./text.js";

const BARS = 3;
const KEPT = 400; // steps that stay drawn; older ones are looked up when their word is clicked

export class Unrolled {
	#place;
	#rows;
	#settle;
	#drawn = new Map(); // position -> {step, element}, in the order of time

	/** `place` is the list of steps, `rows` names what stands in it. */
	constructor(place, rows, pick) {
		this.#place = place;
		this.#rows = rows;
		this.#settle = rove(place);
		place.addEventListener("click", ({ target }) => {
			if (target.type === "button") pick(Number(target.parentElement.dataset.position));
		});
	}

	clear() {
		this.cut(0);
	}

	/** Forget the steps after `position`. */
	cut(position) {
		for (const at of this.#drawn.keys()) if (at > position) this.#drop(at);
		this.#drawn.get(position)?.element.querySelector(".came")?.classList.remove("came");
		this.#changed();
	}

	/** All steps that are drawn, as they were added. */
	get steps() {
		return [...this.#drawn.values()].map(({ step }) => step);
	}

	/** The one at `position`, if it is drawn. */
	step(position) {
		return this.#drawn.get(position)?.step;
	}

	/**
	 * Steps that follow those drawn, in the order of time: {position, word, known, predictions, layers}, each layer
	 * {name, size, values}, at most 64 of them.
	 */
	add(steps) {
		for (const step of steps.filter(({ position }) => !this.#drawn.has(position))) {
			const element = this.#draw(step);
			this.#place.append(element);
			this.#drawn.set(step.position, { step, element });
		}
		for (const at of [...this.#drawn.keys()].slice(0, -KEPT)) this.#drop(at);
		this.#changed();
		this.#place.scrollLeft = this.#place.scrollWidth;
	}

	/** Say by `surprise(position)` how surprising each word was. */
	paint(surprise) {
		for (const [position, { element }] of this.#drawn) Object.assign(element.lastElementChild.dataset, surprise(position));
	}

	/** The step at `position` comes into view and is marked; 0: none is. The button of the one that was. */
	mark(position) {
		const last = this.#place.querySelector(".marked");
		last?.classList.remove("marked");
		const step = this.#drawn.get(position)?.element;
		step?.classList.add("marked");
		step?.scrollIntoView({ block: "nearest", inline: "nearest" });
		return last?.lastElementChild;
	}

	#drop(position) {
		this.#drawn.get(position).element.remove();
		this.#drawn.delete(position);
	}

	#changed() {
		this.#settle(); // where there are none, the stylesheet shows a figure in their place
	}

	#draw({ position, word, known, predictions, layers }) {
		const before = this.#drawn.get(position - 1);
		const bars = before?.element.querySelectorAll(".next li") ?? [];
		before?.step.predictions.forEach((one, place) => bars[place]?.classList.toggle("came", one.word === word));

		const next = made("ol", "next");
		for (const { word: one, probability } of predictions.slice(0, BARS)) {
			const item = made("li");
			item.title = `${shown(one)} ${percent(probability)}`;
			item.append(bar(probability / longest(predictions)), made("span", "word", shown(one)));
			next.append(item);
		}
		const strips = layers.map(({ values }, index) => {
			const strip = made("div", "layer");
			strip.dataset.layer = index;
			strip.append(heat("state", values), made("i", "unit"));
			if (!before) return strip; // what the word changed is not known
			const change = values.map((value, place) => value - before.step.layers[index].values[place]);
			const mean = change.reduce((sum, value) => sum + Math.abs(value), 0) / change.length;
			strip.firstChild.after(heat("change", change), bar(mean, "moved"));
			return strip;
		});
		const button = made("button", known ? "" : "unknown", shown(word));
		Object.assign(button, { type: "button", tabIndex: -1, title: `${shown(word)}, word ${position}` });
		const element = made("li");
		element.dataset.position = position;
		element.append(next, ...strips.reverse(), button);
		if (!this.#rows.firstChild) this.#name(layers);
		return element;
	}

	#name(layers) {
		const names = layers.map(({ size }, index) => [`layer ${index + 1}`, `${size} units`]).reverse();
		const rows = [["what may", "come next"], ...names, ["word read", ""]].map(([name, more]) => {
			const row = made("span", "", name);
			row.append(made("small", "", more));
			return row;
		});
		this.#rows.replaceChildren(...rows);
	}
}
