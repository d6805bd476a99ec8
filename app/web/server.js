// The one place that calls the server, knows the key, and remembers the last call.

const KEY = "nextword-key";

/** What the server said instead of an answer. `status` is 0 when it did not answer at all. */
export class Refusal extends Error {
	constructor(status, { detail, title } = {}, retryAfter = null) {
		super(detail ?? title ?? `The server answered ${status}.`);
		Object.assign(this, { status, retryAfter });
	}
}

function silent(error) {
	throw error.name === "AbortError" ? error : new Refusal(0);
}

export class Server extends EventTarget {
	#last = null;

	get key() {
		return sessionStorage.getItem(KEY) ?? "";
	}

	set key(value) {
		sessionStorage.setItem(KEY, value);
	}

	/** The response to a call, 2xx; else a `Refusal` is thrown. A `quiet` call is not the last one. */
	async fetch(method, path, { body, session, signal, quiet = false } = {}) {
		const headers = {};
		if (body !== undefined) headers["content-type"] = "application/json";
		if (session) headers["x-session-id"] = session; // balancers route by it
		if (this.key) headers.authorization = `Bearer ${this.key}`;
		if (!quiet) this.#last = { method, path, body };
		const options = { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store" };
		const response = await fetch(path, options).catch(silent);
		if (response.ok) return response;
		const problem = await response.json().catch(() => ({}));
		throw new Refusal(response.status, problem, Number(response.headers.get("retry-after")) || null);
	}

	/** The JSON of a call. Unless it is quiet, a "latency" event tells how long it took, in milliseconds. */
	async json(method, path, options = {}) {
		const started = performance.now();
		const response = await this.fetch(method, path, options);
		const reply = response.status === 204 ? null : await response.json().catch(silent);
		if (!options.quiet) this.dispatchEvent(new CustomEvent("latency", { detail: performance.now() - started }));
		return reply;
	}

	/** The server-sent events of a call, one {event, data} after the other. An event `error` is thrown. */
	async *events(path, options) {
		const response = await this.fetch("POST", path, options);
		const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
		let rest = "";
		for (;;) {
			const { done, value } = await reader.read().catch(silent);
			if (done) return;
			const parts = (rest + value).split("\n\n");
			rest = parts.pop();
			for (const part of parts) {
				const [, event, json] = /^event: (.*)\ndata: (.*)$/u.exec(part) ?? [];
				if (!event) continue;
				const data = JSON.parse(json);
				if (event === "error") throw new Refusal(data.status, data);
				yield { event, data };
			}
		}
	}

	/** The last call as a command for a shell. */
	curl() {
		const { method, path, body } = this.#last;
		const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;
		const parts = ["curl", "-X", method, quoted(new URL(path, location.href.split("#")[0]).href)];
		if (body !== undefined) parts.push("-H", quoted("content-type: application/json"), "-d", quoted(JSON.stringify(body)));
		if (this.key) parts.push("-H", quoted("authorization: Bearer YOUR-KEY"));
		return parts.join(" ");
	}
}
