// The page: typing never waits for the server, and only the newest text is asked about.

import { Branches } from "./branches.js";
import { Continuing } from "./continuing.js";
import { keep, kept } from "./kept.js";
import { Notices } from "./notices.js";
import { Reader } from "./reader.js";
import { Server } from "./server.js";
import { entry, follow, longest, Suggestions } from "./strip.js";
import { percent, shown, split, taking } from "./text.js";
import { Unrolled } from "./unrolled.js";
import { describe, perplexity, Written } from "./written.js";

const COUNT = 10; // predictions in the list
const TRACED = 24; // steps that are drawn when a session is opened
const FRESH = 4; // predictions of the network that remembers nothing
const EXPECTED = 5; // words that are named when a word is inspected
const QUIET = 1000; // milliseconds without a key, after which a screen reader is told

const element = (id) => document.getElementById(id);
const box = element("text");
const server = new Server();
const notices = new Notices(element("notice"), {
  retry: ask,
  key(value) {
    server.key = value;
    start();
  },
});
const suggestions = new Suggestions({ strip: element("strip"), list: element("predictions"), box, take });
const place = follow(element("strip"), box);
const written = new Written(element("written"), element("legend"), inspect);
const unrolled = new Unrolled(element("unrolled"), element("unrolled-empty"), (position) => inspect(position - reader.first - 1));
const branches = new Branches(element("branches"), visit);
const continuing = new Continuing(server, {
  button: element("continue"),
  knobs: Object.fromEntries(["temperature", "top-k", "top-p", "seed"].map((name) => [name, element(name)])),
  used: element("seed-used"),
});

let reader = new Reader(server);
let asking = null; // the promise of the round of calls under way
let stale = false; // the text has changed since the call under way was made
let busy = false; // the text and the session are being changed by something else than typing
let dismissed = false; // Esc was pressed, and nothing typed since
let leaving = false; // Esc was the last key: the next Tab moves the focus
let about = null; // the model

// --- Asking ----------------------------------------------------------------------------------------------------------

const RECOVERED = {
  404: "The server does not know this session any more: your text was read again, in a new one.",
  409: "The session had gone on elsewhere: your text was read again, in a new one.",
  410: "The session had expired: your text was read again, in a new one.",
};

/** Ask about the text as it stands. While a call is under way, one more follows it at most. */
function ask() {
  stale = true;
  wait("next", "network");
  asking ??= round().finally(() => {
    asking = null;
    if (busy) return;
    done("next");
    if (!drawing) done("network");
  });
  return asking;
}

/** What these parts of the page show is older than the text. */
function wait(...parts) {
  for (const part of parts) element(part).ariaBusy = "true";
}

function done(...parts) {
  for (const part of parts) element(part).ariaBusy = "false";
}

async function round() {
  try {
    while (stale && !busy) {
      stale = false;
      const { finished, typed } = split(box.value);
      const asked = reader;
      const reply = await asked.follow(finished, typed, COUNT);
      notices.clear();
      if (reply.recovered) {
        notices.tell(RECOVERED[reply.recovered]);
        if (asked === reader) unrolled.clear();
      }
      if (!stale && asked === reader) show(reply, typed);
    }
    if (busy) return;
    draw();
    introduce();
  } catch (error) {
    complain(error);
  }
}

function complain(error) {
  if (error.status === undefined) throw error;
  suggestions.show([]);
  offer();
  notices.refused(error);
}

function show(reply, typed) {
  suggestions.show(reply.predictions);
  element("none").hidden = reply.predictions.length > 0;
  element("none").textContent = `No word of the vocabulary begins with “${typed}”.`;
  offer();
  element("unknown").textContent = percent(reply.unknown_probability);
  element("entropy").textContent = `${reply.entropy_bits.toFixed(1)} bits`;
  element("model").textContent = reply.model;
  announce(reply.predictions);
  figures();
}

/** The strip stands under the caret while that is where the suggested word would go. */
function offer() {
  const atEnd = box.selectionStart === box.value.length;
  suggestions.offer(atEnd && !dismissed && !busy);
  if (!atEnd) return;
  box.scrollTop = box.scrollHeight; // there is room for the strip below the last line
  place();
}

function figures() {
  element("session").textContent = reader.session ?? "none yet";
  element("position").textContent = reader.position.toLocaleString("en");
  const overall = perplexity(reader.words);
  element("perplexity").textContent = overall === null ? "–" : overall.toLocaleString("en", { maximumFractionDigits: 1 });
  written.show(reader.words, reader.read);
  if (branches.current) {
    branches.current.text = box.value;
    branches.draw();
  }
  remember();
}

let saying = null;

function announce(predictions) {
  clearTimeout(saying);
  saying = setTimeout(() => {
    const best = predictions.slice(0, 3).map(({ word, probability }) => `${shown(word)} ${percent(probability)}`);
    element("announcer").textContent = best.length ? `Next: ${best.join(", ")}` : "No suggestion";
  }, QUIET);
}

/** What is served, once. */
async function introduce() {
  if (about) return;
  try {
    about = await server.json("GET", "v1/model", { quiet: true });
    element("state-bytes").textContent = `${about.state_bytes.toLocaleString("en")} bytes, however long the text`;
    element("parameters").textContent = about.parameters.toLocaleString("en");
    element("vocabulary").textContent = `${about.vocabulary.toLocaleString("en")} words`;
  } catch (error) {
    if (error.status === undefined) throw error; // the next round tries again
  }
}

// --- Drawing what the network does -----------------------------------------------------------------------------------

let drawing = false;
let compared = null; // the word that was last compared with a fresh state

/** Bring the picture to where the session is. What is drawn already is not asked for again. */
async function draw() {
  if (drawing) return;
  drawing = true;
  try {
    for (let done = false; !done; ) {
      const { position, session, words } = reader;
      unrolled.cut(position);
      let missing = 0;
      while (missing < Math.min(TRACED, words.length) && !unrolled.has(position - missing)) missing += 1;
      if (missing && session) {
        if (missing === TRACED) unrolled.clear(); // so that no step is left out in between
        const trace = await reader.trace(missing);
        if (session === reader.session && trace.position === reader.position) unrolled.add(trace.words);
      }
      await compare(reader.words.at(-1)?.word ?? null);
      done = position === reader.position && session === reader.session;
    }
  } catch (error) {
    if (error.status === undefined) throw error; // the next round says what is wrong
  } finally {
    drawing = false;
    if (!asking && !busy) done("network");
  }
}

/** The same word, fresh state: what a network that remembers nothing before it would expect. */
async function compare(word) {
  if (word === compared) return;
  if (word === null) {
    compared = null;
    element("fresh").replaceChildren();
    return;
  }
  const { predictions } = await reader.fresh([word], FRESH);
  compared = word;
  const title = Object.assign(document.createElement("p"), { textContent: `The same word, fresh state: after “${shown(word)}” alone` });
  const list = document.createElement("ol");
  list.append(...predictions.map((prediction) => entry(prediction, longest(predictions))));
  element("fresh").replaceChildren(title, list);
}

/** What was expected at a word, and the ways to go on from it. */
async function inspect(index) {
  const word = reader.words[index];
  if (!word) return;
  const position = reader.first + index + 1;
  const panel = element("inspected");
  const title = document.createElement("p");
  const probability = word.probability === undefined ? "" : `, ${percent(word.probability)}`;
  title.textContent = `“${shown(word.word)}”, word ${position}: ${describe(word)}${probability}.`;
  const expected = document.createElement("p");
  const back = action("Go back to here", () => rewind(index));
  const fork = action("Try another way from here", () => branch(index));
  const close = action("Close", closeInspected);
  panel.replaceChildren(title, expected, back, fork, close);
  panel.hidden = false;
  unrolled.mark(position);
  try {
    const predictions = unrolled.predictions(position - 1) ?? (await earlier(position - 1));
    const named = predictions.slice(0, EXPECTED).map(({ word: one, probability: p }) => `“${shown(one)}” ${percent(p)}`);
    expected.textContent = `Expected there: ${named.join(", ")}.`;
  } catch (error) {
    if (error.status === undefined) throw error;
    expected.textContent = "What was expected there is not known any more.";
  }
}

/** The predictions after `position`, of a step that is not drawn. */
async function earlier(position) {
  if (position === 0) return (await reader.fresh([], EXPECTED)).predictions;
  return (await reader.earlier(position, EXPECTED)).predictions;
}

function closeInspected() {
  element("inspected").hidden = true;
  unrolled.mark(0);
}

function action(name, run) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
  button.addEventListener("click", run);
  return button;
}

// --- Changing the text ------------------------------------------------------------------------------------------------

let ours = false; // it is the page that types

/** Replace the last `remove` characters by `insert`, in a way that Ctrl+Z takes back. */
function type(remove, insert) {
  const start = box.value.length - remove;
  box.focus({ preventScroll: true });
  box.setSelectionRange(start, box.value.length);
  ours = true;
  // The one way that keeps the browser's own undo; deprecated and without a successor.
  const done = insert ? document.execCommand("insertText", false, insert) : remove === 0 || document.execCommand("delete");
  ours = false;
  if (!done) box.setRangeText(insert, start, box.value.length, "end");
  box.scrollTop = box.scrollHeight;
}

function take(word) {
  const { remove, insert } = taking(box.value, word);
  continuing.stop();
  type(remove, insert);
  typed();
}

/** The text up to the end of a word, and a blank. */
function upTo(index) {
  const text = box.value.slice(0, reader.words[index].end);
  return /\s$/u.test(text) ? text : `${text} `;
}

/** Stop what goes on, and wait until the session stands where the page believes it to be. */
async function quiet() {
  continuing.stop();
  await continued;
  await asking;
}

async function rewind(index) {
  await quiet();
  closeInspected();
  const { end } = reader.words[index];
  type(box.value.length - end, upTo(index).slice(end));
  typed();
}

async function branch(index) {
  await quiet();
  busy = true;
  try {
    const position = reader.first + index + 1;
    const other = await reader.fork(position);
    closeInspected();
    const text = upTo(index);
    if (!branches.current) branches.add(reader, box.value);
    const parent = branches.current;
    parent.text = box.value;
    reader = other;
    unrolled.cut(position);
    box.value = text;
    branches.add(reader, text, parent, position);
    box.focus();
  } catch (error) {
    done("next", "network");
    complain(error);
    return;
  } finally {
    busy = false;
  }
  typed();
}

async function visit(chosen) {
  await quiet();
  branches.current.text = box.value;
  branches.choose(chosen);
  reader = chosen.reader;
  box.value = chosen.text;
  unrolled.clear();
  closeInspected();
  typed();
}

element("forget").addEventListener("click", async () => {
  await quiet();
  reader.forget(split(box.value).finished);
  restart();
  notices.tell("The state is empty: nothing of what stands there is remembered.");
  typed();
});

element("clear").addEventListener("click", async () => {
  await quiet();
  type(box.value.length, "");
  reader.forget();
  restart();
  typed();
});

function restart() {
  branches.clear(reader);
  unrolled.clear();
  closeInspected();
  box.focus();
}

// --- Continue for me --------------------------------------------------------------------------------------------------

let continued = null; // the promise of its end

element("continue").addEventListener("click", () => {
  if (continuing.running) continuing.stop();
  else continued ??= goOn().finally(() => {
    continued = null;
  });
});

async function goOn() {
  await asking;
  busy = true;
  wait("next", "network");
  closeInspected();
  try {
    if (split(box.value).typed) type(0, " ");
    await reader.follow(box.value, "", 0);
    unrolled.cut(reader.position);
    offer();
    await continuing.run(reader, ({ word, text }) => {
      // A blank stands behind the text already: the next word needs none, and a full stop takes it away.
      const blank = box.value.endsWith(" ");
      const [remove, insert] = blank ? [/^\s/u.test(text) ? 0 : 1, text.replace(/^ /u, "")] : [0, text];
      reader.took(word, insert, remove);
      type(remove, insert);
      figures();
      draw();
    });
    if (split(box.value).typed) type(0, " "); // the last word is finished
    // Words may have been made that never arrived; and none that arrived has its scores.
    await reader.settle().catch((error) => {
      if (![404, 409, 410].includes(error.status)) throw error; // the next round finds out
    });
    await reader.score();
  } catch (error) {
    busy = false;
    done("next", "network");
    complain(error);
    figures();
    return;
  }
  busy = false;
  figures();
  ask();
}

// --- Keys -------------------------------------------------------------------------------------------------------------

/** The text has changed. */
function typed() {
  dismissed = false;
  offer();
  ask();
}

box.addEventListener("input", () => {
  if (ours) return;
  continuing.stop();
  closeInspected();
  typed();
});
box.addEventListener("scroll", place);
document.addEventListener("selectionchange", () => {
  if (document.activeElement === box && !busy) offer();
});
box.addEventListener("keydown", (event) => {
  const escaped = leaving;
  leaving = event.key === "Escape";
  if (event.isComposing) return;
  if (event.key === "Escape") {
    continuing.stop();
    dismissed = true;
    offer();
    suggestions.walk(-suggestions.active - 1);
  } else if (event.key === "Tab" && !event.shiftKey && !escaped && suggestions.best !== null) {
    event.preventDefault();
    take(suggestions.chosen ?? suggestions.best);
  } else if (event.altKey && /^Digit[123]$/.test(event.code)) {
    const word = suggestions.at(Number(event.code.at(-1)));
    if (word !== null) {
      event.preventDefault();
      take(word);
    }
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && box.selectionStart === box.value.length) {
    if (event.key === "ArrowUp" && suggestions.active < 0) return; // up into the text
    if (suggestions.walk(event.key === "ArrowDown" ? 1 : -1)) event.preventDefault();
  } else if (event.key === "Enter" && suggestions.chosen !== null) {
    event.preventDefault();
    take(suggestions.chosen);
  }
});

for (const input of document.querySelectorAll("input[name=scale]")) {
  input.addEventListener("change", () => written.choose(input.value));
}

element("copy").addEventListener("click", async () => {
  const command = Object.assign(document.createElement("textarea"), { value: server.curl(), readOnly: true, rows: 3 });
  command.setAttribute("aria-label", "The last call as a curl command");
  try {
    await navigator.clipboard.writeText(command.value);
    notices.tell("The last call is in the clipboard:", command);
  } catch {
    notices.tell("The last call, to copy from here:", command);
    command.select();
  }
});

server.addEventListener("latency", ({ detail }) => {
  element("latency").textContent = `${detail.toFixed(1)} ms`;
});
addEventListener("online", ask);

// On a phone the strip sits above the keyboard.
const { visualViewport } = window;
function lift() {
  const covered = Math.max(0, innerHeight - visualViewport.height - visualViewport.offsetTop);
  document.documentElement.style.setProperty("--keyboard", `${covered}px`);
}
visualViewport?.addEventListener("resize", lift);
visualViewport?.addEventListener("scroll", lift);

// --- Where we were ----------------------------------------------------------------------------------------------------

let keeping = null;

function save() {
  clearTimeout(keeping);
  keeping = null;
  if (reader.session && box.value.startsWith(reader.read)) keep(reader, box.value);
}

function remember() {
  if (!reader.session) return;
  if (location.hash !== `#${reader.session}`) history.replaceState(null, "", `#${reader.session}`);
  keeping ??= setTimeout(save, 500);
}

addEventListener("pagehide", save);
addEventListener("hashchange", () => {
  if (location.hash !== `#${reader.session}`) location.reload();
});

/** Go on with the session in the address: its text from this browser, or from the words that the server keeps. */
async function resume(session) {
  const record = kept(session);
  if (record) {
    box.value = record.text;
    Object.assign(reader, record.reader);
    return;
  }
  try {
    await reader.open(session);
    box.value = reader.read;
    await reader.score();
  } catch (error) {
    if (![404, 410].includes(error.status)) throw error;
    notices.tell("That session is gone, and this browser has no text of it. A new one begins.");
  }
}

async function start() {
  const session = decodeURIComponent(location.hash.slice(1));
  try {
    if (session && !reader.session) await resume(session);
  } catch (error) {
    complain(error);
    return;
  }
  figures();
  ask();
}

start();
