// What this browser keeps for a reload: the branches of a text, and how far each was read.

const INDEX = "nextword-trees"; // [[session of each branch], ...], the latest text first
const MANY = 6; // texts
const name = (session) => `nextword-session-${session}`;

const trees = () => JSON.parse(localStorage.getItem(INDEX)) ?? [];
const without = (sessions) => trees().filter((tree) => !tree.some((one) => sessions.includes(one)));

/** Keep the branches of a text, {reader, text, parent, at} each; only `current` has changed since. */
export function keep(branches, current) {
	try {
		const all = branches.filter(({ reader }) => reader.session);
		if (!all.includes(current)) return; // it has no name yet
		const sessions = all.map(({ reader }) => reader.session);
		only([sessions, ...without(sessions)].slice(0, MANY));
		for (const branch of all) {
			const { reader, text, parent, at } = branch;
			if (branch !== current && localStorage.getItem(name(reader.session))) continue;
			const { position, read, base, words } = reader;
			const record = { text, at, parent: all.indexOf(parent), position, read: read.length, base, words };
			localStorage.setItem(name(reader.session), JSON.stringify(record));
		}
	} catch {
		// The storage is full or forbidden.
	}
}

/** Keep nothing of a text any more. */
export function drop(branches) {
	try {
		only(without(branches.map(({ reader }) => reader.session)));
	} catch {
		// It is forbidden.
	}
}

function only(wanted) {
	for (const old of trees().flat()) if (!wanted.flat().includes(old)) localStorage.removeItem(name(old));
	localStorage.setItem(INDEX, JSON.stringify(wanted));
}

/** The branches of the text of a session, `reader` being what to assign to one; empty if not known here. */
export function kept(session) {
	try {
		const tree = trees().find((sessions) => sessions.includes(session));
		const records = tree.map((one) => JSON.parse(localStorage.getItem(name(one))));
		const all = records.map(({ text, at, position, read, base, words }, index) => {
			return { text, at, reader: { session: tree[index], position, read: text.slice(0, read), base, words } };
		});
		return all.map((branch, index) => Object.assign(branch, { parent: all[records[index].parent] ?? null }));
	} catch {
		return [];
	}
}
