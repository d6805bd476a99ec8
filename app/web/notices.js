// Everything that can go wrong looks like something, says what to do, and goes away by itself when it is over.

const NOTE_SECONDS = 8;

export class Notices {
  #place;
  #actions;
  #timer = null;

  /** actions: {retry(), key(value)}. */
  constructor(place, actions) {
    this.#place = place;
    this.#actions = actions;
  }

  /** The server has answered: what was wrong is over. */
  clear() {
    if (this.#place.dataset.kind !== "note") this.#remove();
  }

  /** Something to know that is not an error; with `more`, an element, it stays longer. */
  tell(text, more) {
    this.#show("note", text, ...(more ? [more] : []));
    this.#timer = setTimeout(() => this.#remove(), 1000 * NOTE_SECONDS * (more ? 4 : 1));
  }

  refused({ status, retryAfter, message }) {
    if (status === 401) {
      this.#askForKey();
      return;
    }
    const wait = retryAfter ?? (status === 0 ? 1 : 2);
    if (status === 0) this.#show("offline", "The server does not answer. Your text is safe here; trying again…");
    else if (status === 429) this.#show("busy", `Too many requests: the server asks for a pause. Going on in ${wait} s…`);
    else if (status === 503) this.#show("busy", `The server is busy or starting. Going on in ${wait} s…`);
    else {
      this.#show("error", `That did not work (${status}): ${message}`);
      return;
    }
    this.#timer = setTimeout(() => this.#actions.retry(), 1000 * wait);
  }

  #remove() {
    clearTimeout(this.#timer);
    this.#place.replaceChildren();
    delete this.#place.dataset.kind;
  }

  #show(kind, text, ...more) {
    clearTimeout(this.#timer);
    // What is said already is not said again, or a screen reader would repeat it at every key.
    if (this.#place.dataset.kind === kind && this.#place.firstChild.textContent === text) return;
    this.#place.dataset.kind = kind;
    const line = document.createElement("p");
    line.textContent = text;
    this.#place.replaceChildren(line, ...more);
  }

  #askForKey() {
    if (this.#place.dataset.kind === "key") return;
    const form = document.createElement("form");
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "password", autocomplete: "off", required: true });
    const button = Object.assign(document.createElement("button"), { textContent: "Use it" });
    label.append("Key ", input);
    form.append(label, button);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#remove();
      this.#actions.key(input.value.trim());
    });
    this.#show("key", "This server wants a key. It is kept in this tab only.", form);
    input.focus();
  }
}
