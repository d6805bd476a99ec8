// The text: how the page types into it, and where its caret is.

export class Box {
	#mirror; // beside the text, set the same way
	#ours = false; // it is the page that types

	/** `changed` is called when somebody else than the page has typed. */
	constructor(element, changed) {
		this.element = element;
		this.#mirror = element.nextElementSibling;
		element.addEventListener("input", () => {
			if (!this.#ours) changed();
		});
	}

	get text() {
		return this.element.value;
	}

	set text(text) {
		this.element.value = text;
	}

	get atEnd() {
		return this.element.selectionStart === this.element.value.length;
	}

	/** Replace the last `remove` characters by `insert`, in a way that Ctrl+Z takes back. */
	type(remove, insert) {
		const { element } = this;
		const start = element.value.length - remove;
		element.focus({ preventScroll: true });
		element.setSelectionRange(start, element.value.length);
		this.#ours = true;
		// The one way that keeps the browser's own undo; deprecated and without a successor.
		const done = insert ? document.execCommand("insertText", false, insert) : remove === 0 || document.execCommand("delete");
		this.#ours = false;
		if (!done) element.setRangeText(insert, start, element.value.length, "end");
		element.scrollTop = element.scrollHeight;
	}

	/** Put `strip` under the caret. */
	under(strip) {
		const { element } = this;
		const before = element.value.slice(0, element.selectionEnd);
		// Of a long text the last lines are enough to know where the caret is in its line.
		const line = before.lastIndexOf("\n", before.length - 400) + 1;
		const mark = document.createElement("span");
		mark.textContent = "\u200b";
		this.#mirror.replaceChildren(before.slice(line), mark);
		const width = element.clientWidth;
		this.#mirror.style.width = `${width}px`;
		const left = Math.min(mark.offsetLeft, Math.max(0, width - strip.offsetWidth - 8));
		const below = mark.offsetTop + mark.offsetHeight - element.scrollTop;
		// The end of a text that does not fit is the last line in view.
		const last = element.scrollHeight - element.scrollTop - parseFloat(getComputedStyle(element).paddingBottom);
		const top = Math.min(line === 0 ? below : last, element.clientHeight - strip.offsetHeight - 4);
		strip.style.setProperty("--left", `${left}px`);
		strip.style.setProperty("--top", `${Math.max(0, top)}px`);
	}
}
