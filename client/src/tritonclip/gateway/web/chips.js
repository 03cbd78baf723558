// A list of short texts, each shown as a removable chip.

import { announce, el, removeButton, showMessage } from "./dom.js";

// A text that is a JSON array of texts is that list; any other text is split at commas and line ends.
function split(text) {
  const parts = jsonTexts(text) ?? text.split(/[,\n\r]+/);
  return parts.map((part) => part.trim()).filter(Boolean);
}

function jsonTexts(text) {
  if (!text.trim().startsWith("[")) return null;
  try {
    const items = JSON.parse(text);
    return items.every((item) => typeof item === "string") ? items : null;
  } catch {
    return null;
  }
}

// Dispatches "change" when the values change.
export class Chips extends EventTarget {
  values = [];

  constructor(parts) {
    super();
    Object.assign(this, parts); // {list, input, message, info}
    const { input } = parts;
    input.addEventListener("keydown", (event) => this.onKey(event));
    // checks the value, because phone keyboards do not report which key was pressed
    const isComplete = () => input.value.includes(",") && !input.value.trimStart().startsWith("[");
    input.addEventListener("input", () => isComplete() && this.commit());
    input.addEventListener("paste", (event) => this.onPaste(event));
    input.parentElement.addEventListener("click", (event) => event.target === input.parentElement && input.focus());
  }

  // Adds what has been typed so far.
  commit() {
    const text = this.input.value;
    this.input.value = "";
    this.add(split(text));
  }

  add(texts) {
    const rejected = new Set();
    const before = this.values.length;
    const most = this.info.max_labels;
    for (const text of texts) {
      if (this.values.includes(text)) rejected.add(`\u201c${text}\u201d has already been added.`);
      else if (this.values.length >= most) rejected.add(`At most ${most} labels are allowed.`);
      else {
        this.values.push(text);
        this.list.append(this.chip(text));
      }
    }
    if (texts.length) showMessage(this.message, [...rejected].slice(0, 3).join(" "), this.input);
    if (this.values.length === before) return;
    announce(`Added: ${this.values.slice(before).join(", ")}`);
    this.dispatchEvent(new Event("change"));
  }

  // Replaces all values.
  set(texts) {
    this.values.length = 0;
    this.list.replaceChildren();
    this.add(texts);
  }

  remove(text) {
    const index = this.values.indexOf(text);
    this.values.splice(index, 1);
    this.list.children[index].remove();
    (this.list.children[index]?.querySelector("button") ?? this.input).focus();
    showMessage(this.message, "", this.input);
    announce(`Removed: ${text}`);
    this.dispatchEvent(new Event("change"));
  }

  chip(text) {
    return el("li", { class: "chip" }, el("span", null, text), removeButton(text, () => this.remove(text)));
  }

  onKey(event) {
    if (event.isComposing || event.ctrlKey || event.metaKey) return;
    if (event.key === "Enter") this.commit();
    else if (event.key === "Backspace" && !this.input.value && this.values.length) this.remove(this.values.at(-1));
  }

  onPaste(event) {
    const text = event.clipboardData.getData("text/plain");
    if (!/[,\n]/.test(text)) return;
    event.preventDefault();
    this.add(split(text));
  }
}
