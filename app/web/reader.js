// The server reads along: every finished word is sent once, and this class knows which part of the text that is.

import { common, joint, units } from "./text.js";

export const LOST = [404, 409, 410]; // unknown, elsewhere, gone: the text can be read again

/**
 * One branch of a text: `session` at the server, and the `words` it has read, with offsets into the text: {word, start,
 * end, known, probability, log_probability, rank, surprisal_bits}, the last four undefined where they were not told.
 */
export class Reader {
	#server;
	session = null;
	position = 0;
	words = [];
	read = ""; // the text up to the end of what was read
	base = 0; // before this character the text is forgotten
	paused = false; // nobody wants the rest of a long text read any more
	#most = 20_000; // characters that are sent at once
	careful = false; // that the session is gone is told, once, before the text is read again

	constructor(server) {
		this.#server = server;
	}

	/** The position before the first word that is known here. */
	get first() {
		return this.position - this.words.length;
	}

	/** Start from nothing; `text` stays unread. The server forgets, too. */
	forget(text = "") {
		if (this.session) this.#call("DELETE", "").catch(() => {}); // it expires by itself otherwise
		this.#again();
		this.read = text;
		this.base = text.length;
	}

	/**
	 * Bring the session to the end of `finished` and ask what comes next, given that it starts with `typed`.
	 * Where the text was changed further back, the session goes back to there.
	 * `recovered` in the reply is the status with which the server had refused, if the text was read again. Between the
	 * pieces of a long text `told` hears which share was read, and `paused` ends it.
	 */
	async follow(finished, typed, count, told) {
		this.paused = false;
		let recovered = await this.#back(finished);
		let reply = null;
		while (!reply || (this.read.length < finished.length && !this.paused)) {
			if (reply) told(this.read.length / finished.length);
			const from = Math.max(this.read.length, this.base);
			const piece = finished.slice(from, cut(finished, from, this.#most));
			try {
				reply = await this.#consume(piece, finished, from, typed, count);
			} catch (error) {
				if (error.status === 413 && piece.length > 1) {
					this.#most = Math.ceil(piece.length / 2);
					continue;
				}
				if (!this.session || !LOST.includes(error.status)) throw error;
				if (this.careful && error.status === 409) {
					await this.settle(); // words were made there that never arrived here
					continue;
				}
				recovered = error.status;
				reply = null;
				this.#again();
				if (this.careful) throw error;
			} finally {
				this.careful = false;
			}
		}
		return { ...reply, recovered };
	}

	/** A word that the server made, `said`, stands as `text` in place of the last `remove` blanks. */
	took({ word, log_probability, probability, rank, surprisal_bits }, text, remove = 0) {
		this.read = this.read.slice(0, this.read.length - remove) + text;
		const end = this.read.length;
		const start = end - text.trimStart().length;
		this.words.push({ word, start, end, known: word !== "<unk>", log_probability, probability, rank, surprisal_bits });
		this.position += 1;
	}

	/** Where the server stands is not known for sure: go to where we stand. */
	async settle() {
		if (this.session) await this.#rewind(this.position);
	}

	/** Have the words scored that were not: asked once more, the server does not read them again. */
	async score() {
		const from = this.words.findIndex(({ rank }) => rank === undefined);
		if (from < 0) return;
		const { session, position } = this;
		const words = this.words.slice(from);
		const asked = { position: this.first + from, words: words.map(({ word }) => word), top_k: 0, scores: true };
		try {
			const reply = await this.#predict({ session_id: session, ...asked }, true);
			if (this.session !== session || this.position !== position) return;
			reply.words.forEach((scored, index) => (this.words[from + index] = { ...words[index], ...scored }));
		} catch (error) {
			if (!LOST.includes(error.status)) throw error; // too long ago: they stay without
		}
	}

	/** A new session at `position`, this one unchanged. */
	async fork(position, quiet = false) {
		const { session_id: session } = await this.#call("POST", "/fork", { position }, quiet);
		const words = this.words.slice(0, position - this.first);
		const read = this.read.slice(0, words.at(-1)?.end ?? this.base);
		return Object.assign(new Reader(this.#server), { session, position, words, read, base: this.base });
	}

	/** The last steps, for drawing. */
	trace(last) {
		return this.#call("GET", `/trace?last=${last}`);
	}

	/** What was expected after `position`: a fork says so, and is forgotten. */
	async earlier(position, count) {
		if (position === 0) return (await this.fresh([], count)).predictions;
		const branch = await this.fork(position, true);
		try {
			return (await this.#predict({ session_id: branch.session, top_k: count }, true)).predictions;
		} finally {
			branch.forget();
		}
	}

	/** What may come after `words` alone, beginning with `prefix`. */
	fresh(words, count, prefix = "") {
		return this.#predict({ words, keep: false, top_k: count, prefix }, true);
	}

	/** A session that this browser has no text of: its words as far as the server keeps them. */
	async open(session) {
		this.session = session;
		try {
			const { words, position } = await this.#call("GET", "");
			for (const word of words) this.took({ word }, word === "<eos>" ? "\n" : `${word} `);
			this.position = position;
		} catch (error) {
			this.#again();
			throw error;
		}
	}

	#call(method, path, body, quiet = true) {
		const { session } = this;
		return this.#server.json(method, `v1/sessions/${encodeURIComponent(session)}${path}`, { body, session, quiet });
	}

	#predict(body, quiet = false) {
		return this.#server.json("POST", "v1/predict", { body, session: body.session_id, quiet });
	}

	#rewind(position) {
		return this.#call("POST", "/rewind", { position }, false);
	}

	#again() {
		Object.assign(this, { session: null, position: 0, words: [], read: "" });
	}

	/** One piece of the text, and what comes after it. */
	async #consume(piece, text, from, typed, count) {
		const request = { top_k: count, prefix: typed, scores: true };
		if (piece.trim() || piece.includes("\n")) request.text = piece;
		if (this.session) Object.assign(request, { session_id: this.session, position: this.position });
		const reply = await this.#predict(request);
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
		const same = common(this.read, text);
		const forgotten = same < this.base; // what was forgotten has changed: the whole text is a new one
		const start = forgotten ? same : Math.max(this.base, joint(text, same));
		if (start === this.read.length) return;
		// The word before the change may have been another without what followed: it is read again, too.
		let keep = this.words.findIndex(({ end }) => end > start || (end === same && !/^\s/u.test(text.slice(end))));
		if (keep < 0) keep = this.words.length;
		const position = this.first + keep;
		if (forgotten) this.base = 0;
		if (forgotten || !this.session || (keep === 0 && position > 0)) {
			return this.#again();
		}
		try {
			if (keep < this.words.length) await this.#rewind(position);
		} catch (error) {
			if (!LOST.includes(error.status)) throw error;
			this.#again();
			return error.status;
		}
		this.position = position;
		this.words.length = keep;
		this.read = text.slice(0, this.words.at(-1)?.end ?? this.base);
	}
}

/** Where the piece that starts at `from` ends: between words, or at least between characters. */
function cut(text, from, most) {
	if (text.length - from <= most) return text.length;
	const piece = text.slice(from, from + most);
	const whole = piece.replace(/[\ud800-\udbff]$/, "").length || most;
	return from + (/^.*\s(?=\S)/su.exec(piece)?.[0].length ?? whole);
}
