// What of a text is finished and what still typed, and how a word is set into it.

// A word that may yet grow: letters, digits, apostrophes, and the signs inside numbers such as 3.5 and 10:30.
const UNFINISHED = /(?:[\p{L}\p{M}\p{N}'’]|(?<=\p{N})[.,:])+$/u;
const LONGEST = 200; // characters; what is longer is no word that could be completed
const CLOSING = /^[.,!?;:)\]}%…]/u;

/** "I like tea and c" -> {finished: "I like tea and ", typed: "c"} */
export function split(text) {
	const typed = UNFINISHED.exec(text.slice(-LONGEST))?.[0] ?? "";
	if (typed.length >= LONGEST) return { finished: text, typed: "" };
	return { finished: text.slice(0, text.length - typed.length), typed };
}

// What makes one word of several: "U.S.", "...", "x.org", "--".
const GLUED = /\.[.\p{L}\p{N}]|[-‒-―]{2}|@|\/\/|[\u200d\p{Emoji_Modifier}]/u;

/** Where the words begin that may be others now that `text` goes on at `end`; `end` if there are none. */
export function joint(text, end) {
	const [before, after] = [text.slice(Math.max(0, end - LONGEST), end), text.slice(end, end + LONGEST)];
	const [run] = /(?:\S*|\n\s*)$/u.exec(before);
	const [more] = /^\S*/u.exec(after);
	const glued = run.includes("\n") ? /^\s*\n/u.test(after) : run && more && GLUED.test(run + more);
	return glued ? end - run.length : end;
}

/** How to take a word: replace the last `remove` characters of the text by `insert`. */
export function taking(text, word) {
	const { finished, typed } = split(text);
	const blanks = finished.length - finished.trimEnd().length;
	if (word === "<eos>") return { remove: typed.length + blanks, insert: "\n" };
	if (CLOSING.test(word)) return { remove: typed.length + (finished.endsWith("\n") ? 0 : blanks), insert: `${word} ` };
	const between = finished === "" || /\s$/u.test(finished) ? "" : " ";
	return { remove: typed.length, insert: `${between}${word} ` };
}

/** A word as it is shown. */
export const shown = (word) => (word === "<eos>" ? "↵" : word === "<unk>" ? "(unknown)" : word);

export const number = (value) => value.toLocaleString("en", { maximumFractionDigits: 1 });

/** 0.1234 -> "12.3 %"; small ones keep two digits. */
export function percent(probability) {
	const value = 100 * probability;
	if (value < 0.001) return value === 0 ? "0 %" : "<0.001 %";
	return `${value >= 9.95 ? value.toFixed(1) : Number(value.toPrecision(2))} %`;
}

/** How many characters two texts share at their start. */
export function common(one, other) {
	if (other.startsWith(one)) return one.length;
	const end = Math.min(one.length, other.length);
	let index = 0;
	while (index < end && one[index] === other[index]) index += 1;
	return index;
}

/**
 * From offsets by code point, as the server counts, to offsets by UTF-16 unit, as the browser does: a function for
 * rising offsets into `text`.
 */
export function units(text) {
	const starts = [0];
	for (const character of text) starts.push(starts.at(-1) + character.length);
	return (offset) => starts[offset];
}
