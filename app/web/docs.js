// Shows openapi.json to people. Everything is put in as text, never as markup.

const METHODS = ["get", "post", "put", "patch", "delete"];

function element(name, content, attributes = {}) {
	const made = document.createElement(name);
	for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
	made.append(...[content].flat());
	return made;
}

function resolved(schema, api) {
	const name = schema?.$ref?.split("/").pop();
	return name ? resolved(api.components.schemas[name], api) : schema ?? {};
}

function kind(schema, api) {
	if (schema.$ref) return schema.$ref.split("/").pop();
	if (schema.anyOf ?? schema.oneOf) return (schema.anyOf ?? schema.oneOf).map((one) => kind(one, api)).join(" or ");
	if (schema.type === "array") return `list of ${kind(schema.items ?? {}, api)}`;
	const bounds = [["minimum", "from "], ["maximum", "to "], ["maxLength", "up to "]]
		.filter(([key]) => key in schema)
		.map(([key, word]) => word + schema[key]);
	return [schema.type ?? "anything", ...bounds].join(" ");
}

function table(heads, rows) {
	const head = element("tr", heads.map((text) => element("th", text, { scope: "col" })));
	const lines = rows.map((cells) => element("tr", cells.map((cell) => element("td", cell))));
	const made = element("table", [element("thead", head), element("tbody", lines)]);
	return element("div", made, { class: "scroll" });
}

function fields(schema, api) {
	const { properties = {}, required = [] } = resolved(schema, api);
	const rows = Object.entries(properties).map(([name, field]) => [
		element("code", name),
		kind(field, api) + (required.includes(name) ? ", required" : "default" in field ? `, else ${JSON.stringify(field.default)}` : ""),
		field.description ?? "",
	]);
	return rows.length ? [table(["Field", "Type", "Meaning"], rows)] : [];
}

function example(media) {
	return media.example === undefined ? [] : [element("pre", JSON.stringify(media.example, null, 2), { tabindex: "0" })];
}

function bodies(content, api) {
	return Object.entries(content ?? {}).flatMap(([type, media]) => [
		element("p", element("code", type)),
		...fields(media.schema, api),
		...example(media),
	]);
}

function call(method, path, operation, api) {
	const parts = [element("h2", element("code", `${method.toUpperCase()} ${path}`)), element("p", operation.description ?? "")];
	if (operation.parameters?.length) {
		parts.push(element("h3", "Parameters"));
		parts.push(table(["Name", "Where", "Type", "Meaning"], operation.parameters.map((one) => [
			element("code", one.name), one.in, kind(one.schema, api), one.description ?? one.schema.description ?? "",
		])));
	}
	if (operation.requestBody) parts.push(element("h3", "In"), ...bodies(operation.requestBody.content, api));
	const answers = Object.entries(operation.responses);
	for (const [status, answer] of answers.filter(([status]) => status < "400")) {
		parts.push(element("h3", `Out: ${status}`), ...bodies(answer.content, api));
	}
	const errors = answers.filter(([status]) => status >= "400");
	if (errors.length) {
		parts.push(element("h3", "Errors"));
		parts.push(table(["Status", "When"], errors.map(([status, answer]) => [status, answer.description])));
	}
	return element("section", parts, { id: operation.operationId });
}

async function show() {
	const about = document.getElementById("about");
	try {
		const response = await fetch("openapi.json");
		if (!response.ok) throw new Error(`status ${response.status}`);
		const api = await response.json();
		for (const [path, item] of Object.entries(api.paths)) {
			for (const method of METHODS.filter((one) => one in item)) {
				const operation = item[method];
				document.getElementById("calls").append(call(method, path, operation, api));
				const link = element("a", `${method.toUpperCase()} ${path}`, { href: `#${operation.operationId}` });
				document.getElementById("contents").append(element("li", link));
			}
		}
		about.textContent = api.info.description;
	} catch (error) {
		about.textContent = `openapi.json cannot be read: ${error.message}`;
	}
}

await show();
