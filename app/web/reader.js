// The server reads along. Every finished word is sent once; the session at the server remembers it, and this class
// knows which part of the text that is.

import { common, units } from "./text.js";

// Gone, unknown, or not where we believed it to be: the text is here, so it can be read again.
const LOST = new Set([404, 409, 410]);
const PIECE = 20_000; // characters that are sent at once

/**
 * One branch of a text: `session` at the server, and what it has read.
 * `words` are {word, start, end, known, probability, log_probability, rank, surprisal_bits}, with offsets into the
 * text; the last four are missing where the server has not said them.
 */
export class Reader {
  #server;
  session = null;
  position = 0;
  words = [];
  read = ""; // the text up to the end of what was read
  base = 0; // before this character the text is forgotten

  constructor(server) {
    this.#server = server;
  }

  /** The position before the first word that is known here. */
  get first() {
    return this.position - this.words.length;
  }

  /** Start from nothing at the next call; `text` stays unread. The server forgets, too. */
  forget(text = "") {
    if (this.session) this.#call("DELETE", "", undefined, true).catch(() => {}); // it expires by itself otherwise
    this.#again();
    this.read = text;
    this.base = text.length;
  }

  /**
   * Bring the session to the end of `finished` and ask what comes next, given that it starts with `typed`.
   * Where the text was changed further back, the session goes back to the last word before that.
   * `recovered` in the reply is the status with which the server had refused, if the text was read again.
   */
  async follow(finished, typed, count) {
    let recovered = await this.#back(finished);
    let reply;
    do {
      const from = Math.max(this.read.length, this.base);
      const piece = finished.slice(from, cut(finished, from));
      try {
        reply = await this.#consume(piece, finished, from, typed, count);
      } catch (error) {
        if (!this.session || !LOST.has(error.status)) throw error;
        recovered = error.status;
        this.#again();
        reply = null;
      }
    } while (!reply || this.read.length < finished.length);
    return { ...reply, recovered };
  }

  /** A word that the server has read by itself: it generated it. `text` stands in place of the last `remove` blanks. */
  took(word, text, remove = 0) {
    this.read = this.read.slice(0, this.read.length - remove) + text;
    const end = this.read.length;
    this.words.push({ word, known: true, start: end - text.trimStart().length, end });
    this.position += 1;
  }

  /** Where the server stands is not known for sure: go to where we stand. */
  async settle() {
    if (this.session) await this.#rewind(this.position);
  }

  /** Have the words scored that were not: asked once more, the server scores them without reading them again. */
  async score() {
    const from = this.words.findIndex(({ rank }) => rank === undefined);
    if (from < 0) return;
    const { session, position } = this;
    const words = this.words.slice(from);
    const body = { session_id: session, position: this.first + from, words: words.map(({ word }) => word), top_k: 0, scores: true };
    try {
      const reply = await this.#server.json("POST", "v1/predict", { body, session, quiet: true });
      if (this.session !== session || this.position !== position) return;
      reply.words.forEach((scored, index) => {
        this.words[from + index] = { ...words[index], ...scored };
      });
    } catch (error) {
      if (!LOST.has(error.status)) throw error; // too long ago: they stay without
    }
  }

  /** A new session at `position`, this one unchanged. */
  async fork(position, quiet = false) {
    const reply = await this.#call("POST", "/fork", { position }, quiet);
    const branch = new Reader(this.#server);
    branch.session = reply.session_id;
    branch.position = reply.position;
    branch.words = this.words.slice(0, position - this.first);
    branch.base = this.base;
    branch.read = this.read.slice(0, branch.words.at(-1)?.end ?? this.base);
    return branch;
  }

  /** The last steps, for drawing. */
  async trace(last) {
    return this.#call("GET", `/trace?last=${last}`, undefined, true);
  }

  /** What was expected after `position`: a session forked there says so, and is forgotten. */
  async earlier(position, count) {
    const branch = await this.fork(position, true);
    const body = { session_id: branch.session, top_k: count };
    try {
      return await this.#server.json("POST", "v1/predict", { body, session: branch.session, quiet: true });
    } finally {
      branch.forget();
    }
  }

  /** What may come after `words` alone, for a network that has read nothing before. */
  async fresh(words, count) {
    const body = { words, keep: false, top_k: count };
    return this.#server.json("POST", "v1/predict", { body, quiet: true });
  }

  /** The session in the address: its text as far as the server keeps words, when this browser has none. */
  async open(session) {
    this.session = session;
    try {
      const { words, position } = await this.#call("GET", "");
      for (const word of words) this.took(word, word === "<eos>" ? "\n" : `${word} `);
      for (const word of this.words) word.known = word.word !== "<unk>";
      this.position = position;
    } catch (error) {
      this.#again();
      throw error;
    }
  }

  async #call(method, path, body, quiet = false) {
    const { session } = this;
    return this.#server.json(method, `v1/sessions/${encodeURIComponent(session)}${path}`, { body, session, quiet });
  }

  #again() {
    this.session = null;
    this.position = 0;
    this.words = [];
    this.read = "";
  }

  /** One piece of the text, and what comes after it. */
  async #consume(piece, text, from, typed, count) {
    const request = { top_k: count, prefix: typed, scores: true };
    if (piece.trim() || piece.includes("\n")) request.text = piece;
    const { session } = this;
    if (session) Object.assign(request, { session_id: session, position: this.position });
    const reply = await this.#server.json("POST", "v1/predict", { body: request, session });
    const unit = units(piece);
    for (const word of reply.words) {
      this.words.push({ ...word, start: from + unit(word.start), end: from + unit(word.end) });
    }
    this.read = text.slice(0, from + piece.length);
    this.session = reply.session_id;
    this.position = reply.position;
    return reply;
  }

  /** Make what was read a beginning of `text`. The status of a refusal, if that was not possible. */
  async #back(text) {
    if (text.startsWith(this.read)) return undefined;
    const same = common(this.read, text);
    if (same < this.base) {
      this.base = 0; // what was forgotten has changed: the whole text is a new one
      this.#again();
      return undefined;
    }
    // The word before the change may have been another word without what followed: it is read again, too.
    let keep = this.words.findIndex(({ end }) => end > same || (end === same && !/^\s/u.test(text.slice(end))));
    if (keep < 0) keep = this.words.length;
    const position = this.first + keep;
    if (!this.session || (keep === 0 && position > 0)) {
      this.#again();
      return undefined;
    }
    try {
      if (keep < this.words.length) await this.#rewind(position);
    } catch (error) {
      if (!LOST.has(error.status)) throw error;
      this.#again();
      return error.status;
    }
    this.position = position;
    this.words.length = keep;
    this.read = text.slice(0, this.words.at(-1)?.end ?? this.base);
    return undefined;
  }

  async #rewind(position) {
    await this.#call("POST", "/rewind", { position });
  }
}

/** Where the piece that starts at `from` ends: between words. */
function cut(text, from) {
  if (text.length - from <= PIECE) return text.length;
  const piece = text.slice(from, from + PIECE);
  return from + (/^.*\s(?=\S)/su.exec(piece)?.[0].length ?? PIECE);
}
