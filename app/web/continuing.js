// "Continue for me": the server draws words and sends each as it comes.

const MOST = 40; // words

const knob = (name) => document.getElementById(name);

export class Continuing {
	#server;
	#button;
	#running = null; // what stops it

	/** The button starts, and stops. The knobs are the inputs temperature, top-k, top-p and seed. */
	constructor(server, button) {
		this.#server = server;
		this.#button = button;
		for (const output of document.querySelectorAll("output[for]")) {
			const input = knob(output.htmlFor.value);
			const say = () => (output.textContent = input.id === "top-k" && input.value === "0" ? "all" : input.value);
			input.addEventListener("input", say);
			say();
		}
	}

	get running() {
		return this.#running !== null;
	}

	stop() {
		this.#running?.abort();
	}

	/** Have `reader` go on, and tell `hear` each word: {word, text} and its scores. */
	async run({ session, position }, hear) {
		this.#running = new AbortController();
		const { signal } = this.#running;
		this.#button.textContent = "Stop";
		const body = { session_id: session, position, max_words: MOST, stream: true, ...order() };
		try {
			for await (const { event, data } of this.#server.events("v1/generate", { body, session, signal })) {
				if (event === "done" || signal.aborted) break;
				hear(data);
			}
		} catch (error) {
			if (error.name !== "AbortError") throw error;
		} finally {
			this.#running = null;
			this.#button.textContent = "Continue for me";
		}
	}
}

function order() {
	const seed = knob("seed").value === "" ? Math.floor(Math.random() * 1e6) : Number(knob("seed").value);
	knob("seed-used").textContent = seed;
	const order = { temperature: Number(knob("temperature").value), top_p: Number(knob("top-p").value), seed };
	const top_k = Number(knob("top-k").value);
	return top_k ? { ...order, top_k } : order;
}
