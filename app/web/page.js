// The page: its parts, and what happens between them.

import { Asking } from "./asking.js";
import { Box } from "./box.js";
import { Branches } from "./branches.js";
import { Continuing } from "./continuing.js";
import { drop, keep, kept } from "./kept.js";
import { listen } from "./keys.js";
import { Inspector } from "./inspector.js";
import { Notices } from "./notices.js";
import "./phone.js";
import { Picture } from "./picture.js";
import { Reader } from "./reader.js";
import { Server } from "./server.js";
import { made, Suggestions } from "./strip.js";
import { number, percent, shown, split, taking } from "./text.js";
import { pointing } from "./units.js";
import { Unrolled } from "./unrolled.js";
import { perplexity, surprise, Written } from "./written.js";

const QUIET = 1000; // milliseconds without a key, after which a screen reader is told
const SAVED = 500; // milliseconds after which a change is kept for a reload

const LOST = {
	404: "The server does not know this session any more",
	409: "The session goes less far back, or had gone on elsewhere",
	410: "The session had expired",
};

const element = (id) => document.getElementById(id);
const on = (id, click) => element(id).addEventListener("click", click);
const say = (id, text) => (element(id).textContent = text);

const server = new Server();
const box = new Box(element("text"), typed);
const suggestions = new Suggestions({ strip: element("strip"), list: element("predictions"), box: box.element, take });
const notices = new Notices(element("notice"), { retry: ask, key, keyed: () => server.key !== "" });
const written = new Written(element("written"), (index) => inspect(reader().first + index + 1));
const steps = element("unrolled");
const unrolled = new Unrolled(steps, element("unrolled-rows"), inspect);
pointing(unrolled, steps, element("unit"), element("course"));
const inspector = new Inspector(element("inspected"), unrolled, { rewind, branch });
const branches = new Branches(element("branches"), visit);
const continuing = new Continuing(server, element("continue"));
const now = () => ({ text: box.text, reader: reader() });
const picture = new Picture(now, unrolled, { fresh: element("fresh"), alone: element("alone") });
const asking = new Asking({ now, waiting, reading, answered, refused, rested });

let dismissed = false; // Esc was pressed, and nothing typed since
let about = null; // the model
let saying = null; // the timer of what a screen reader is told
let keeping = null; // the timer of what is kept

branches.add(new Reader(server), "");

function reader() {
	return branches.current.reader;
}

// Asking, and what comes of it

function ask() {
	asking.ask();
}

function typed() {
	hold();
	inspector.close();
	dismissed = false;
	offer();
	ask();
}

function waiting() {
	for (const part of ["next", "network"]) element(part).ariaBusy = "true";
}

function reading(share) {
	say("remembered", `reading: ${percent(share)}`);
}

function answered(reply, from, typed) {
	notices.clear();
	if (reply.recovered) {
		notices.tell(`${LOST[reply.recovered]}: your text was read again, in a new one.`);
		if (from === reader()) unrolled.clear();
	}
	if (typed === null || from !== reader()) return;
	suggestions.show(reply.predictions);
	offer();
	element("none").hidden = reply.predictions.length > 0;
	say("none", `No word of the vocabulary begins with “${typed}”.`);
	say("unknown", percent(reply.unknown_probability));
	say("entropy", `${reply.entropy_bits.toFixed(1)} bits`);
	say("model", reply.model);
	announce(reply.predictions);
	figures();
}

async function rested() {
	element("next").ariaBusy = "false";
	await Promise.all([picture.draw(), introduce()]);
	paint();
	if (!asking.busy) element("network").ariaBusy = "false";
}

function refused(error) {
	if (error.status === undefined) throw error;
	suggestions.show([]);
	offer();
	figures();
	notices.refused(error);
}

/** The strip stands under the caret while that is where the suggested word would go. */
function offer() {
	suggestions.offer(box.atEnd && !dismissed && !asking.held);
	if (!box.atEnd) return suggestions.reach(-1);
	box.element.scrollTop = box.element.scrollHeight; // there is room for the strip below the last line
	box.under(element("strip"));
}

function figures() {
	const { session, position, words, read } = reader();
	say("session", session ?? "none yet");
	say("position", number(position));
	say("remembered", position ? `words read: ${number(position)}` : "nothing read yet");
	say("perplexity", words.some(({ rank }) => rank) ? number(perplexity(words)) : "–");
	written.show(words, read);
	branches.current.text = box.text;
	branches.draw();
	remember();
}

function paint() {
	const { first, words } = reader();
	unrolled.paint((position) => surprise(words[position - first - 1]));
}

function announce(predictions) {
	clearTimeout(saying);
	saying = setTimeout(() => {
		const best = predictions.slice(0, 3).map(({ word, probability }) => `${shown(word)} ${percent(probability)}`);
		say("announcer", `Next: ${best.join(", ") || "no suggestion"}`);
	}, QUIET);
}

/** What is served, once. */
async function introduce() {
	if (about || !reader().session) return;
	about = await server.json("GET", "v1/model", { quiet: true }).catch(() => null); // the next round tries again
	if (!about) return;
	say("state-bytes", `${number(about.state_bytes)} bytes, however long the text`);
	say("parameters", number(about.parameters));
	say("vocabulary", `${number(about.vocabulary)} words`);
}

// Changing the text

function take(word) {
	const { remove, insert } = taking(box.text, word);
	box.type(remove, insert);
	typed();
}

function hold() {
	continuing.stop();
	reader().paused = true;
}

/** Until the session stands where the page believes it to. */
async function quiet() {
	hold();
	await asking.quiet();
	save();
}

/** The end of the word at `position`, and the text up to there with a blank. */
function upTo(position) {
	const { words, first } = reader();
	const { end } = words[position - first - 1];
	const text = box.text.slice(0, end);
	return { end, text: /\s$/u.test(text) ? text : `${text} ` };
}

function inspect(position) {
	inspector.open(reader(), position);
}

async function rewind(position) {
	await quiet();
	const { end, text } = upTo(position);
	box.type(box.text.length - end, text.slice(end));
	typed();
}

async function branch(position) {
	await quiet();
	asking.alone(async () => {
		const parent = branches.current;
		const other = await parent.reader.fork(position);
		const { text } = upTo(position);
		parent.text = box.text;
		box.text = text;
		unrolled.cut(position);
		branches.add(other, text, parent, position);
		box.element.focus();
		inspector.close();
	});
}

async function visit(chosen) {
	await quiet();
	branches.current.text = box.text;
	branches.choose(chosen);
	box.text = chosen.text;
	unrolled.clear();
	typed();
}

/** From here on there is one branch, and nothing remembered. */
function restart() {
	drop(branches.all);
	reader().forget(split(box.text).finished);
	branches.prune();
	unrolled.clear();
	box.element.focus();
	typed();
}

on("forget", async () => {
	await quiet();
	restart();
	notices.tell("The state is empty: nothing of what stands there is remembered.");
});

on("clear", async () => {
	await quiet();
	box.type(box.text.length, "");
	restart();
});

on("examples", async ({ target }) => {
	if (target.type !== "button") return;
	await quiet();
	box.type(box.text.length, `${target.textContent} `);
	typed();
});

on("continue", () => {
	if (continuing.running) continuing.stop();
	else if (!asking.held) asking.alone(goOn);
});

async function goOn() {
	const going = reader();
	inspector.close();
	if (split(box.text).typed) box.type(0, " ");
	await going.follow(box.text, "", 0, reading);
	if (going.read !== box.text) return; // somebody types
	unrolled.cut(going.position);
	offer();
	await continuing.run(going, (said) => {
		// The next word needs no blank where there is one, and a full stop takes it away.
		const blank = box.text.endsWith(" ");
		const [remove, insert] = blank ? [/^\s/u.test(said.text) ? 0 : 1, said.text.replace(/^ /u, "")] : [0, said.text];
		going.took(said, insert, remove);
		box.type(remove, insert);
		figures();
		picture.draw().then(paint);
	});
	if (box.text === going.read && split(box.text).typed) box.type(0, " "); // the last word is finished
	// Words may have been made that never arrived.
	await going.settle().catch((error) => {
		if (!(error.status in LOST)) throw error; // the next round finds out
	});
	await going.score();
}

listen(box, suggestions, {
	take,
	dismiss() {
		continuing.stop();
		dismissed = true;
		offer();
		suggestions.reach(-1);
	},
});
box.element.addEventListener("scroll", () => box.under(element("strip")));
document.addEventListener("selectionchange", () => {
	if (document.activeElement === box.element && !asking.held) offer();
});

// What strips and colours show: both are drawn, and the stylesheet chooses.
for (const input of document.querySelectorAll("input[type=radio]")) {
	input.addEventListener("change", () => (document.body.dataset[input.name] = input.value));
}

on("copy", async () => {
	const command = made("textarea");
	Object.assign(command, { value: server.curl(), readOnly: true, rows: 3, ariaLabel: "The last call as a curl command" });
	try {
		await navigator.clipboard.writeText(command.value);
		notices.tell("The last call is in the clipboard:", command);
	} catch {
		notices.tell("The last call, to copy from here:", command);
		command.select();
	}
});

server.addEventListener("latency", ({ detail }) => say("latency", `${detail.toFixed(1)} ms`));
addEventListener("online", ask);

function key(value) {
	server.key = value;
	start();
}

function save() {
	clearTimeout(keeping);
	keeping = null;
	if (box.text.startsWith(reader().read)) keep(branches.all, branches.current);
}

function remember() {
	const { session } = reader();
	if (!session) return;
	if (location.hash !== `#${session}`) history.replaceState(null, "", `#${session}`);
	keeping ??= setTimeout(save, SAVED);
}

addEventListener("pagehide", save);
addEventListener("hashchange", () => {
	if (location.hash !== `#${reader().session}`) location.reload();
});

/** Go on with the session in the address: with its text in this browser, or the words that the server keeps. */
async function resume(session) {
	const all = kept(session);
	if (all.length) {
		for (const one of all) one.reader = Object.assign(new Reader(server), one.reader, { careful: true });
		branches.all = all;
		branches.choose(all.find((one) => one.reader.session === session));
		box.text = branches.current.text;
		return;
	}
	try {
		await reader().open(session);
		box.text = reader().read;
		await reader().score();
	} catch (error) {
		if (!(error.status in LOST)) throw error;
		notices.tell("That session is gone, and this browser has no text of it.");
	}
}

async function start() {
	const session = location.hash.slice(1);
	try {
		if (session && !reader().session) await resume(session);
		figures();
		ask();
	} catch (error) {
		refused(error);
	}
}

start();
