// The keys of the text: Tab and Alt+1..3 take a word, arrows and Enter walk the list, Esc dismisses.

/** `take` a word of the `suggestions`, or `dismiss` them. */
export function listen(box, suggestions, { take, dismiss }) {
	let leaving = false; // Esc was the last key: the next Tab moves the focus
	box.element.addEventListener("keydown", (event) => {
		const { key, altKey, shiftKey, code } = event;
		const step = { ArrowDown: 1, ArrowUp: -1 }[key];
		const escaped = leaving;
		leaving = key === "Escape";
		if (event.isComposing) return;
		let word = null;
		if (key === "Escape") dismiss();
		else if (key === "Tab" && !shiftKey && !escaped) word = suggestions.chosen ?? suggestions.best;
		else if (key === "Enter") word = suggestions.chosen;
		else if (altKey && /^Digit[123]$/u.test(code)) word = suggestions.at(Number(code.at(-1)));
		else if (step && box.atEnd) {
			if (step < 0 && suggestions.active < 0) return; // up into the text
			if (suggestions.walk(step)) event.preventDefault();
		}
		if (word === null) return;
		event.preventDefault();
		take(word);
	});
}
