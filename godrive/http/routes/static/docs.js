"use strict";
// Shows openapi.json of this server and sends requests to this server.
// Data only ever becomes text nodes: nothing here is parsed as HTML.

const base = location.pathname.replace(/\/docs\/?$/, "");
const METHODS = ["get", "post", "put", "patch", "delete", "head"];
let api = null;

function h(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

// Backticks are code; the rest is text.
function prose(text) {
  return (text ?? "").split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part)).filter((part) => part !== "");
}

function resolve(thing) {
  while (thing && thing.$ref) thing = thing.$ref.slice(2).split("/").reduce((at, key) => at[key], api);
  return thing ?? {};
}

function typeName(schema) {
  if (!schema) return "";
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return resolve(schema).enum ? resolve(schema).enum.map((value) => JSON.stringify(value)).join(" | ") : name;
  }
  if (schema.anyOf) return schema.anyOf.map(typeName).join(" | ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return `${typeName(schema.items)}[]`;
  if (schema.type === "object" && schema.additionalProperties) return `{string: ${typeName(schema.additionalProperties)}}`;
  return schema.format ? `${schema.type} (${schema.format})` : schema.type ?? "any";
}

function range(least, most, unit) {
  if (most === undefined || most > Number.MAX_SAFE_INTEGER) return `${least}${unit} or more`;
  if (!least) return `at most ${most}${unit}`;
  return least === most ? `${least}${unit}` : `${least} to ${most}${unit}`;
}

function limits(schema) {
  const said = [];
  for (const part of schema.anyOf ?? [schema]) {
    if (part.minimum !== undefined || part.maximum !== undefined) said.push(range(part.minimum, part.maximum, ""));
    if (part.minLength !== undefined || part.maxLength !== undefined) said.push(range(part.minLength, part.maxLength, " characters"));
    if (part.pattern) said.push(`matches ${part.pattern}`);
  }
  if (schema.default !== undefined && schema.default !== null && schema.default !== "") said.push(`default ${JSON.stringify(schema.default)}`);
  return said.join(", ");
}

const SAMPLES = {
  email: "ann@example.org", password: "correct horse", filename: "notes.txt", name: "notes.txt", mime: "text/plain",
  size_bytes: 12, current_password: "correct horse",
};
const SHOWN = {
  ...SAMPLES, kind: "file", method: "PUT", revision: 1, version: "1.0.0", address: "203.0.113.7", user_agent: "curl/8.5.0",
  object_key: "01a20348/01a20348-4bab-7d59-a16a-dbac9be5d2ed", token: "eyJhbGciOi…", refresh_token: "eyJhbGciOi…",
  headers: { "Content-Length": "12", "Content-Type": "text/plain" }, checks: { catalog: "ok", store: "ok" }, next_page: "MTc5NTM0…",
  sha256: "cc88c20a4fa4555167131de35a2f3691ea895b008d2d3bde1368c4f392266de9",
  upload_url: `${location.origin}${base}/v1/uploads/01a20348-4bab-7bfd-b1c4-4072ae128ddd/content?expires=…&signature=…`,
  url: `${location.origin}${base}/v1/files/01a20348-4c20-7b59-aba7-138c39d1ab7f/content?expires=…&signature=…`,
};
const AN_ID = "01a20348-4c20-7b59-aba7-138c39d1ab7f";

// An example with the required fields only, or with all of them.
function sample(schema, everything = false, depth = 0) {
  schema = resolve(schema);
  if (schema.anyOf) return sample(schema.anyOf.find((part) => part.type !== "null") ?? {}, everything, depth);
  if (schema.enum) return schema.enum[0];
  if (schema.properties && depth < 4) {
    const wanted = Object.entries(schema.properties).filter(([name]) => everything || (schema.required ?? []).includes(name) || name in SAMPLES);
    const given = everything ? SHOWN : SAMPLES;
    return Object.fromEntries(wanted.map(([name, inner]) => [name, given[name] ?? (everything && /(^|_)id$|^deleted$/.test(name) ? AN_ID : sample(inner, everything, depth + 1))]));
  }
  if (schema.type === "array") return [sample(schema.items, everything, depth + 1)];
  if (schema.type === "object") return {};
  if (schema.type === "integer" || schema.type === "number") return schema.minimum ?? 0;
  if (schema.type === "boolean") return true;
  return schema.format === "date-time" ? "2030-01-01T12:00:00Z" : "";
}

// Bidirectional controls can make gpj.exe look like exe.jpg, so they are shown as escapes.
function unturned(text) {
  return text.replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function paint(json) {
  const text = unturned(json);
  const pre = h("pre", {});
  const token = /("(?:\\.|[^"\\])*")(\s*:)?|\b(true|false|null)\b|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)/g;
  let at = 0;
  for (const match of text.matchAll(token)) {
    pre.append(text.slice(at, match.index));
    const kind = match[1] ? (match[2] ? "j-key" : "j-string") : match[3] ? "j-word" : "j-number";
    pre.append(h("span", { class: kind }, match[1] ?? match[0]), match[2] ?? "");
    at = match.index + match[0].length;
  }
  pre.append(text.slice(at));
  return pre;
}

function fields(schema) {
  schema = resolve(schema);
  const rows = Object.entries(schema.properties ?? {}).map(([name, inner]) => h("tr", {},
    h("td", {}, name, (schema.required ?? []).includes(name) ? h("span", { class: "need", title: "required" }, "required") : null),
    h("td", {}, h("span", { class: "type" }, typeName(inner)), " ", prose(inner.description ?? (inner.anyOf ?? []).map((part) => part.description).find(Boolean)),
      limits(inner) ? h("div", { class: "type" }, limits(inner)) : null)));
  return rows.length ? h("table", {}, h("tbody", {}, rows)) : h("code", {}, typeName(schema));
}

function operationNode(method, path, operation) {
  const needs = (operation.security ?? []).flatMap((scheme) => Object.entries(scheme))[0];
  const lock = needs ? (needs[0] === "signature" ? "signed URL" : needs[1].join(" ")) : "open";
  const details = h("details", { class: "operation", id: operation.operationId },
    h("summary", {},
      h("span", { class: `method ${method}` }, method.toUpperCase()),
      h("span", { class: "path" }, path.split(/({[^}]+})/).map((part) => (part.startsWith("{") ? h("em", {}, part) : part))),
      h("span", { class: "gist" }, prose(operation.summary)),
      h("span", { class: "lock", title: needs ? `needs ${lock}` : "needs nothing" }, lock)));
  // Built when it is first opened, because the page is long.
  details.addEventListener("toggle", () => {
    if (details.open && details.childElementCount === 1) details.append(inside(method, path, operation));
  });
  return details;
}

function inside(method, path, operation) {
  const parameters = (operation.parameters ?? []).map(resolve);
  const bodySchema = operation.requestBody?.content?.["application/json"]?.schema;
  const left = h("div", {});
  if (operation.description) left.append(h("h3", {}, "What it does"), h("p", {}, prose(operation.description)));
  if (parameters.length) {
    left.append(h("h3", {}, "Parameters"), h("table", {}, h("tbody", {}, parameters.map((p) => h("tr", {},
      h("td", {}, p.name, p.required ? h("span", { class: "need" }, "required") : null),
      h("td", {}, h("span", { class: "type" }, `${p.in} · ${typeName(p.schema)}`), " ", prose(p.description),
        limits(p.schema) ? h("div", { class: "type" }, limits(p.schema)) : null))))));
  }
  if (bodySchema) left.append(h("h3", {}, operation.requestBody.required ? "Body" : "Body, may be left out"), fields(bodySchema));
  left.append(h("h3", {}, "Answers"), h("table", {}, h("tbody", {}, Object.entries(operation.responses).map(([status, response]) => {
    const content = Object.values(response.content ?? {})[0];
    const name = content && status < "400" ? typeName(content.schema) : "";
    return h("tr", {}, h("td", { class: status < "400" ? "ok" : "refused" }, status),
      h("td", {}, prose(response.description), name ? [" ", h("span", { class: "type" }, name)] : null));
  }))));
  const right = h("div", { class: "trying" }, h("h3", {}, "Try it"), tryForm(method, path, operation, parameters, bodySchema));
  const success = Object.entries(operation.responses).find(([status]) => status < "300")?.[1];
  const reply = success?.content?.["application/json"]?.schema;
  if (reply) right.append(h("h3", {}, "An answer looks like this"), paint(JSON.stringify(sample(reply, true), null, 2)));
  return h("div", { class: "inside" }, left, right);
}

function tryForm(method, path, operation, parameters, bodySchema) {
  const signed = (operation.security ?? []).some((scheme) => scheme.signature);
  const whole = signed ? h("input", { name: "url", type: "url", required: true, placeholder: "paste the signed URL", spellcheck: "false", autocomplete: "off" }) : null;
  const inputs = parameters.filter((p) => !signed || p.in === "header").map((p) => {
    const values = resolve(p.schema).enum;
    const field = values
      ? h("select", { name: p.name }, h("option", { value: "" }, ""), values.map((value) => h("option", { value }, value)))
      : h("input", { name: p.name, placeholder: p.schema.default ?? "", spellcheck: "false", autocomplete: "off" });
    return [p, field];
  });
  const raw = !bodySchema && operation.requestBody ? h("input", { type: "file" }) : null;
  const draft = bodySchema ? JSON.stringify(sample(bodySchema), null, 2) : "";
  const body = bodySchema ? h("textarea", { spellcheck: "false", "aria-label": "Body", rows: draft.split("\n").length + 1 }, draft) : null;
  const answer = h("div", { class: "answer", "aria-live": "polite" });

  function request() {
    // Of a signed URL the path and the query are signed, not the host; this page may only ask its own.
    const given = signed ? new URL(whole.value, location.href) : null;
    let target = given ? given.pathname + given.search : base + path;
    const query = new URLSearchParams();
    const headers = {};
    if (given?.searchParams.get("mime")) headers["Content-Type"] = given.searchParams.get("mime");
    for (const [p, field] of inputs) {
      if (p.in === "path") target = target.replace(`{${p.name}}`, encodeURIComponent(field.value));
      else if (field.value === "") continue;
      else if (p.in === "query") query.set(p.name, field.value);
      else headers[p.name] = field.value;
    }
    if ([...query].length) target += `?${query}`;
    const token = document.getElementById("token").value.trim();
    if (token && (operation.security ?? []).some((scheme) => scheme.token)) headers.Authorization = `Bearer ${token}`;
    const content = body ? body.value.trim() : raw?.files[0] ?? "";
    if (body && content) headers["Content-Type"] = "application/json";
    return { target, options: { method: method.toUpperCase(), headers, body: content || undefined } };
  }

  async function send(event) {
    event.preventDefault();
    const began = performance.now();
    try {
      const { target, options } = request();
      const response = await fetch(target, options);
      const text = await response.text();
      show(response, text, performance.now() - began);
    } catch (error) {
      answer.replaceChildren(h("p", { class: "refused" }, `No answer: ${error.message}`));
    }
  }

  function show(response, text, took) {
    let shown = text;
    let parsed = null;
    try { parsed = JSON.parse(text); shown = JSON.stringify(parsed, null, 2); } catch { /* not JSON: show it as it is */ }
    answer.replaceChildren(
      h("div", { class: `status ${response.ok ? "ok" : "refused"}` }, `${response.status} ${response.statusText} `, h("span", { class: "took" }, `${took.toFixed(0)} ms`)),
      h("pre", {}, [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n")));
    if (shown) answer.append(parsed ? paint(shown) : h("pre", {}, unturned(shown.slice(0, 20000))));
    if (parsed?.token) {
      const use = h("button", { type: "button", onclick: () => { document.getElementById("token").value = parsed.token; use.textContent = "In use"; } }, "Use this token");
      answer.append(h("div", {}, use));
    }
  }

  function curl(event) {
    event.preventDefault();
    const { target, options } = request();
    const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
    const line = [`curl -X ${options.method} ${quote(location.origin + target)}`,
      ...Object.entries(options.headers).map(([name, value]) => `-H ${quote(`${name}: ${name === "Authorization" ? "Bearer $TOKEN" : value}`)}`.replace("'Authorization: Bearer $TOKEN'", '"Authorization: Bearer $TOKEN"'))];
    if (typeof options.body === "string") line.push(`-d ${quote(options.body)}`);
    else if (options.body) line.push(`-T ${quote(options.body.name)}`);
    answer.replaceChildren(h("pre", {}, line.join(" \\\n  ")));
  }

  return h("form", { class: "try", onsubmit: send },
    whole ? h("label", {}, h("span", {}, "signed URL"), whole) : null,
    inputs.map(([p, field]) => h("label", {}, h("span", { class: "mono" }, p.name), field)),
    body ? h("label", { class: "body" }, body) : raw ? h("label", {}, h("span", {}, "bytes"), raw) : null,
    h("div", { class: "row" }, h("button", { class: "go", type: "submit" }, "Send"), h("button", { type: "button", onclick: curl }, "Show as curl")),
    answer);
}

function draw() {
  document.getElementById("version").textContent = api.info.version;
  document.getElementById("intro").append(h("h1", {}, "The API"),
    ...api.info.description.trim().split(/\n\s*\n/).map((text) => h("p", {}, prose(text))),
    h("p", {}, "All of this, for programs: ", h("a", { href: `${base}/openapi.json` }, "openapi.json"), "."));
  const byTag = new Map(api.tags.map((tag) => [tag.name, []]));
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of METHODS) {
      if (!item[method]) continue;
      const tag = item[method].operationId.endsWith("_original") ? "original" : item[method].tags[0];
      if (!byTag.has(tag)) byTag.set(tag, []);
      byTag.get(tag).push([method, path, item[method]]);
    }
  }
  const described = new Map(api.tags.map((tag) => [tag.name, tag.description]));
  described.set("original", "The paths of the first GoDrive, at the root: the same operations.");
  const sections = document.getElementById("operations");
  const nav = document.getElementById("nav");
  for (const [tag, entries] of byTag) {
    if (!entries.length) continue;
    sections.append(h("section", { "data-tag": tag }, h("h2", { id: `tag-${tag}` }, tag), h("p", {}, prose(described.get(tag))), entries.map((entry) => operationNode(...entry))));
    nav.append(h("div", { "data-tag": tag }, h("h2", {}, tag), entries.map(([method, path, operation]) =>
      h("a", { href: `#${operation.operationId}`, title: `${method.toUpperCase()} ${path}` }, h("span", { class: `method ${method}` }, method.toUpperCase()), h("span", {}, operation.summary.replaceAll("`", ""))))));
  }
  const schemas = document.getElementById("schemas");
  schemas.append(h("h2", {}, "Schemas"), ...Object.entries(api.components.schemas).sort().map(([name, schema]) =>
    h("details", { class: "schema", id: `schema-${name}` }, h("summary", {}, name), h("p", {}, prose(schema.description)), schema.enum ? h("code", {}, typeName(schema)) : fields(schema))));
  schemas.hidden = false;
  goTo();
}

function goTo() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target?.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
}

function find(event) {
  const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const section of document.querySelectorAll("#operations > section")) {
    let any = false;
    for (const details of section.querySelectorAll("details.operation")) {
      const text = details.firstElementChild.textContent.toLowerCase();
      details.hidden = !words.every((word) => text.includes(word));
      any ||= !details.hidden;
    }
    section.hidden = !any;
  }
}

function theme(chosen) {
  document.documentElement.dataset.theme = chosen;
}

theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => theme(event.matches ? "dark" : "light"));
document.getElementById("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
document.getElementById("find").addEventListener("input", find);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) { event.preventDefault(); document.getElementById("find").focus(); }
});
addEventListener("hashchange", goTo);
fetch(`${base}/openapi.json`).then((response) => response.json()).then((document_) => { api = document_; draw(); })
  .catch((error) => document.getElementById("intro").append(h("p", { class: "refused" }, `openapi.json could not be read: ${error.message}`)));
