// What of a text is finished and what is still being typed.

// A word that may yet grow: letters, digits, apostrophes, and the signs inside numbers such as 3.5 and 10:30.
const UNFINISHED = /(?:[\p{L}\p{M}\p{N}'’]|(?<=\p{N})[.,:])+$/u;
const CLOSING = /^[.,!?;:)\]}%…]/u;

/** "I like tea and c" -> {finished: "I like tea and ", typed: "c"} */
export function split(text) {
  const typed = UNFINISHED.exec(text)?.[0] ?? "";
  return { finished: text.slice(0, text.length - typed.length), typed };
}

/** The text after a suggested word was taken in place of the one being typed, with a blank after it. */
export function take(text, word) {
  const { finished } = split(text);
  if (word === "<eos>") return finished.trimEnd() + "\n";
  if (CLOSING.test(word)) return `${finished.trimEnd()}${word} `;
  return `${finished === "" || /\s$/u.test(finished) ? finished : `${finished} `}${word} `;
}

/** A word as it is shown. */
export const shown = (word) => (word === "<eos>" ? "↵" : word);
