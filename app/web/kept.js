// What this browser keeps of a session, so that a reload goes on where it was: the text, and which part of it was read.

const INDEX = "nextword-sessions";
const MANY = 6; // sessions whose texts are kept
const FIELDS = ["start", "end", "known", "log_probability", "probability", "rank", "surprisal_bits"];
const name = (session) => `nextword-session-${session}`;

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Keep a reader and its text. */
export function keep({ session, position, read, base, words }, text) {
  try {
    const others = (parsed(localStorage.getItem(INDEX)) ?? []).filter((other) => other !== session);
    for (const old of others.splice(MANY - 1)) localStorage.removeItem(name(old));
    localStorage.setItem(INDEX, JSON.stringify([session, ...others]));
    const rows = words.map((word) => [word.word, ...FIELDS.map((field) => word[field])]);
    localStorage.setItem(name(session), JSON.stringify({ text, position, read: read.length, base, rows }));
  } catch {
    // The storage is full or forbidden: the server has the words still.
  }
}

/** {text, reader: what to assign to one}, or null when this browser does not know the session. */
export function kept(session) {
  const record = parsed(localStorage.getItem(name(session)));
  if (!record) return null;
  const { text, position, read, base, rows } = record;
  const words = rows.map(([word, ...values]) => {
    const fields = FIELDS.map((field, index) => [field, values[index] ?? undefined]);
    return { word, ...Object.fromEntries(fields) };
  });
  return { text, reader: { session, position, read: text.slice(0, read), base, words } };
}
