// A layer's hidden state as a strip of colours.

import { made } from "./strip.js";

const [NEGATIVE, POSITIVE] = [[33, 102, 172], [217, 95, 2]];

/** A canvas of one pixel a value, the first on top: -1 is blue, 1 is orange. */
export function heat(kind, values) {
	const canvas = Object.assign(made("canvas", kind), { width: 1, height: values.length, ariaHidden: "true" });
	const context = canvas.getContext("2d");
	const image = context.createImageData(1, values.length);
	values.forEach((value, index) => {
		const strength = Math.min(1, Math.abs(value)) ** 0.7;
		image.data.set([...(value < 0 ? NEGATIVE : POSITIVE), 255 * strength], 4 * index);
	});
	context.putImageData(image, 0, 0);
	return canvas;
}
