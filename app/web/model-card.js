// Shows the model's card, which is Markdown, to people. Everything is put in as text, never as markup.

import { Server } from "./server.js";

const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\((https?:[^)\s]+)\)/u;

function element(name, ...content) {
	const made = document.createElement(name);
	made.append(...content);
	return made;
}

/** A line: code, bold, and links to the web. */
function inline(text) {
	const found = INLINE.exec(text);
	if (!found) return text ? [text] : [];
	const [whole, code, bold, name, address] = found;
	const made = code ? element("code", code) : bold ? element("strong", ...inline(bold)) : element("a", name);
	if (address) made.href = address;
	return [text.slice(0, found.index), made, ...inline(text.slice(found.index + whole.length))].filter(Boolean);
}

const cells = (row) => row.trim().replace(/^\||\|$/gu, "").split("|").map((cell) => cell.trim());

function table([head, , ...rows]) {
	const line = (row, kind) => element("tr", ...cells(row).map((cell) => element(kind, ...inline(cell))));
	const made = element("table", element("tbody", ...rows.map((row) => line(row, "td"))));
	if (cells(head).some(Boolean)) made.prepend(element("thead", line(head, "th")));
	const scroll = element("div", made);
	scroll.className = "scroll";
	scroll.tabIndex = 0;
	scroll.role = "region";
	scroll.ariaLabel = "Table";
	return scroll;
}

/** What stands between blank lines. */
function block(text) {
	const lines = text.split("\n");
	const heading = /^(#{1,6}) +(.*)$/u.exec(lines[0]);
	if (heading) return [element(`h${heading[1].length}`, ...inline(heading[2])), ...(lines[1] ? block(lines.slice(1).join("\n")) : [])];
	if (lines[0].startsWith("|")) return [table(lines)];
	if (/^[-*] /u.test(lines[0])) {
		const items = text.split(/^[-*] +/mu).slice(1);
		return [element("ul", ...items.map((item) => element("li", ...inline(item.trim()))))];
	}
	return [element("p", ...inline(lines.join(" ")))];
}

/** Code between fences keeps its lines, blank ones too; everything else is made of blocks. */
function render(markdown) {
	return markdown.split(/^```.*\n([\s\S]*?)^```$/mu).flatMap((part, index) =>
		index % 2 ? [element("pre", part)] : part.split(/\n\s*\n/u).map((text) => text.trim()).filter(Boolean).flatMap(block),
	);
}

const card = document.getElementById("card");
try {
	const response = await new Server().fetch("GET", "v1/model/card");
	card.replaceChildren(...render(await response.text()));
} catch (error) {
	const advice = error.status === 401 ? " Open the page, give your key, and come back in the same tab." : "";
	card.firstElementChild.textContent = `The model's card cannot be read: ${error.message}${advice}`;
}
