// Small helpers for the document. Data is inserted as text, never as HTML.

export const byId = (id) => document.getElementById(id);

// Creates an element with attributes, listeners (onclick: f) and children. Strings become text.
export function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export const button = (text, attributes) => el("button", { type: "button", ...attributes }, text);

export const removeButton = (name, onclick) =>
  button("\u00d7", { class: "remove", "aria-label": `Remove ${name}`, onclick });

const MAX_NEWS = 30;

// Announces text to screen readers; it is also visible elsewhere on the page.
export function announce(text) {
  const news = byId("news");
  news.append(el("p", null, text));
  if (news.childElementCount > MAX_NEWS) news.firstElementChild.remove();
}

// Shows and announces a message, and marks its field as invalid. An empty message clears both.
export function showMessage(node, text, field) {
  node.textContent = text;
  field?.setAttribute("aria-invalid", String(text !== ""));
  if (text && node.getAttribute("role") !== "alert") announce(text);
}

// The server numbers labels and texts from zero, the page from one.
export const fromOne = (message) =>
  message.replace(/^(label|text) (\d+)\b/, (_, kind, index) => `${kind} ${Number(index) + 1}`);

// Adds new warnings to a list; null clears it.
export function warn(list, warnings) {
  if (warnings === null) list.replaceChildren();
  const shown = Array.from(list.children, (each) => each.textContent);
  const texts = (warnings ?? []).map(fromOne).filter((each) => !shown.includes(each));
  list.append(...texts.map((each) => el("li", null, each)));
  list.hidden = !list.childElementCount;
}

// The lines of a text, without blank and repeated ones.
export const linesOf = (text) => [...new Set(text.split("\n").map((line) => line.trim()).filter(Boolean))];

export const percent = (score) => `${(100 * score).toFixed(1)}%`;

export const counted = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// Allows line breaks in a file name after dots, dashes and underscores.
export const breakable = (name) => name.split(/(?<=[._-])/).flatMap((part) => [part, el("wbr")]);

// Removes a node. If it had the focus, its neighbour's remove button receives it.
export function drop(node) {
  const hadFocus = node.contains(document.activeElement);
  const next = node.nextElementSibling ?? node.previousElementSibling;
  node.remove();
  if (hadFocus) (next?.querySelector(".remove") ?? byId("choose")).focus();
}

export function save(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// Pages without HTTPS have no clipboard API, so the text is selected and copied by execCommand.
export async function copy(node) {
  if (navigator.clipboard) return navigator.clipboard.writeText(node.textContent);
  getSelection().selectAllChildren(node);
  if (!document.execCommand("copy")) throw new Error("copying is not allowed here");
}
