// The branches of a text: each a session of its own at the server, forked from a word of another.

const SHOWN = 48; // characters of a branch's end that its button shows

export class Branches {
  #place;
  #all = []; // {reader, text, parent, at}
  current = null;

  constructor(place, pick) {
    this.#place = place;
    place.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      const branch = button && this.#all[Number(button.dataset.index)];
      if (branch && branch !== this.current) pick(branch);
    });
  }

  /** A new branch, the current one from now on; `at` is the position in `parent` where it begins. */
  add(reader, text, parent = null, at = 0) {
    this.current = { reader, text, parent, at };
    this.#all.push(this.current);
    this.draw();
  }

  choose(branch) {
    this.current = branch;
    this.draw();
  }

  /** Every branch but `kept` is forgotten, by the server too. */
  clear(kept) {
    for (const { reader } of this.#all) if (reader !== kept) reader.forget();
    this.#all = [];
    this.current = null;
    this.draw();
  }

  draw() {
    this.#place.closest("section").hidden = this.#all.length < 2;
    if (this.#all.length < 2) return;
    const focused = document.activeElement.closest("#branches button")?.dataset.index;
    this.#place.replaceChildren(...this.#below(null));
    if (focused) this.#place.querySelector(`[data-index="${focused}"]`)?.focus();
  }

  #below(parent) {
    return this.#all
      .filter((branch) => branch.parent === parent)
      .map((branch) => {
        const item = document.createElement("li");
        const button = document.createElement("button");
        button.type = "button";
        button.dataset.index = this.#all.indexOf(branch);
        const text = branch.text.trimEnd();
        const end = text.length > SHOWN ? `…${text.slice(-SHOWN)}` : text;
        button.textContent = `${branch.parent ? `from word ${branch.at}: ` : ""}${end || "(nothing yet)"}`;
        if (branch === this.current) button.setAttribute("aria-current", "true");
        item.append(button);
        const children = this.#below(branch);
        if (children.length) {
          const list = document.createElement("ul");
          list.append(...children);
          item.append(list);
        }
        return item;
      });
  }
}
