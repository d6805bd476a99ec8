// Many buttons are one stop of the Tab key; arrows walk along them.

const ALONG = { ArrowLeft: -1, ArrowRight: 1 };
const ENDS = { Home: -Infinity, End: Infinity };

/** A function to call after buttons came or went: the last one, or the one given, is the stop unless one has focus. */
export function rove(place, along = ALONG) {
	const steps = { ...along, ...ENDS };
	let stop = null;
	const move = (button) => {
		if (stop) stop.tabIndex = -1;
		stop = button ?? null;
		if (stop) stop.tabIndex = 0;
	};
	place.addEventListener("focusin", (event) => move(event.target.closest("button")));
	place.addEventListener("keydown", (event) => {
		const by = steps[event.key];
		if (by === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
		event.preventDefault();
		const buttons = [...place.querySelectorAll("button")];
		const at = Math.min(Math.max(buttons.indexOf(stop) + by, 0), buttons.length - 1);
		buttons[at]?.focus();
	});
	return (chosen = place.lastElementChild?.querySelector("button")) => {
		if (!stop?.isConnected || !place.contains(document.activeElement)) move(chosen);
	};
}
