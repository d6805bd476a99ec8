// Pointing at a unit of a layer, or the few that share a line of its strip: their value, and its course in time.

import { shown } from "./text.js";

const UP = { ArrowUp: 1, ArrowDown: -1 };
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
const positionOf = (target) => Number(target?.closest("[data-position]")?.dataset.position);

/** `place` holds the steps of `unrolled`; `readout` says the value that is pointed at, `course` is an SVG of it. */
export function pointing(unrolled, place, readout, course) {
	const [axes, curve] = course.children;
	let at = null; // {layer, line}: which strip, and which of its lines from the top

	function mark(layer) {
		for (const strip of place.querySelectorAll(".layer")) strip.classList.toggle("pointed", strip.dataset.layer === `${layer}`);
	}

	function leave() {
		at = null;
		mark(-1);
		readout.textContent = ""; // and without it there is no course
	}

	function point(position, layer, asked) {
		const { steps } = unrolled;
		const here = steps.findIndex((step) => step.position === position);
		const { size, values } = steps[here].layers[layer];
		const line = Math.min(Math.max(asked, 0), values.length - 1);
		at = { layer, line };
		mark(layer);
		place.style.setProperty("--at", line);
		place.style.setProperty("--of", values.length);
		const [first, last] = [line, line + 1].map((edge) => Math.floor((edge * size) / values.length));
		const units = last - first > 1 ? `units ${first + 1}–${last} (their mean)` : `unit ${first + 1}`;
		const all = steps.map(({ layers }) => layers[layer].values[line]);
		const before = here ? `, before it ${signed(all[here - 1])}` : "";
		const word = shown(steps[here].word);
		readout.textContent = `Layer ${layer + 1}, ${units} of ${size}: ${signed(all[here])} after “${word}”${before}`;
		course.setAttribute("viewBox", `-0.5 -1.1 ${all.length} 2.2`);
		axes.setAttribute("d", `M-0.5 0H${all.length}M${here} -1.1V1.1`);
		curve.setAttribute("d", `M${all.map((value, index) => `${index} ${-value}`).join("L")}`);
	}

	/** One line further up (1) or down (-1), from layer to layer; first the lowest of all. */
	function walk(position, by) {
		const { layers } = unrolled.step(position);
		let { layer, line } = at ?? { layer: 0, line: layers[0].values.length };
		line -= by;
		if (layers[layer].values[line] === undefined && layers[layer + by]) {
			layer += by;
			line = by > 0 ? layers[layer].values.length - 1 : 0;
		}
		point(position, layer, line);
	}

	function pointed({ target, clientY }) {
		const strip = target.closest(".layer");
		if (!strip) return;
		const { top, height } = strip.getBoundingClientRect();
		point(positionOf(strip), Number(strip.dataset.layer), Math.floor(((clientY - top) / height) * strip.firstChild.height));
	}

	place.addEventListener("pointermove", pointed);
	place.addEventListener("pointerdown", pointed);
	place.addEventListener("pointerleave", ({ pointerType }) => pointerType === "touch" || leave());
	place.addEventListener("focusin", ({ target }) => at && point(positionOf(target), at.layer, at.line));
	place.addEventListener("focusout", ({ relatedTarget }) => positionOf(relatedTarget) || leave());
	place.addEventListener("keydown", (event) => {
		const [position, by] = [positionOf(event.target), UP[event.key]];
		if (event.key === "Escape") leave();
		if (!by || !position) return;
		event.preventDefault();
		walk(position, by);
	});
}
