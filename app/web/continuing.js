// "Continue for me": the server draws words and sends each as it comes.

const MOST = 40; // words

export class Continuing {
  #server;
  #button;
  #knobs;
  #used;
  #running = null; // what stops it

  /** knobs: {temperature, "top-k", "top-p", seed}, the inputs; the button starts, and stops. */
  constructor(server, { button, knobs, used }) {
    this.#server = server;
    this.#button = button;
    this.#knobs = knobs;
    this.#used = used;
    for (const [name, knob] of Object.entries(knobs)) {
      const output = document.querySelector(`output[for=${name}]`);
      const say = () => {
        if (output) output.textContent = name === "top-k" && knob.value === "0" ? "all" : knob.value;
      };
      knob.addEventListener("input", say);
      say();
    }
  }

  get running() {
    return this.#running !== null;
  }

  stop() {
    this.#running?.abort();
  }

  /** Have `reader` go on, and tell `hear(word)` each word: {word, text}. Ends quietly when it is stopped. */
  async run(reader, hear) {
    this.#running = new AbortController();
    const { signal } = this.#running;
    this.#button.textContent = "Stop";
    try {
      const options = { body: this.#order(reader), session: reader.session, signal };
      for await (const { event, data } of this.#server.events("v1/generate", options)) {
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

  #order({ session, position }) {
    const { temperature, "top-k": topK, "top-p": topP, seed } = this.#knobs;
    const drawn = seed.value === "" ? Math.floor(Math.random() * 1e6) : Number(seed.value);
    this.#used.textContent = drawn;
    return {
      session_id: session,
      position,
      max_words: MOST,
      temperature: Number(temperature.value),
      ...(Number(topK.value) ? { top_k: Number(topK.value) } : {}),
      top_p: Number(topP.value),
      seed: drawn,
      stream: true,
    };
  }
}
