// The tab "Compare": a table of cosines between images and texts, with cells coloured by value.

import { requestForImage } from "./api.js";
import { thumbnail } from "./card.js";
import { announce, breakable, byId, counted, drop, el, linesOf, removeButton, showMessage, warn } from "./dom.js";
import { saveCsv, saveJson } from "./download.js";

const shown = (cosine) => cosine.toFixed(3);
const numbered = (text, index) => `${index + 1}. ${text}`;
const greatest = (values) => values.reduce((a, b) => Math.max(a, b));

function heading(text, index) {
  const title = el("span", null, numbered(text, index));
  title.style.setProperty("--chars", text.length);
  return el("th", { scope: "col" }, title);
}

export class Compare {
  rows = new Map(); // item -> {row, cosines: null until the response arrives}
  controller = new AbortController();

  constructor(page) {
    this.page = page; // {images, labels, info, model, mayCall}
    this.asked = []; // texts of the table on screen
    this.texts = byId("texts");
    page.images.addEventListener("removed", ({ detail }) => this.onRemoved(detail));
    page.images.addEventListener("added", () => this.onInputs());
    this.texts.addEventListener("input", () => {
      showMessage(byId("texts-message"), "", this.texts);
      this.onInputs();
    });
    byId("compare-csv").addEventListener("click", () => this.saveCsv());
    byId("compare-json").addEventListener("click", () => this.saveJson());
    byId("compare").addEventListener("click", () => this.run());
    byId("fill").addEventListener("click", () => this.fill());
  }

  get lines() {
    return linesOf(this.texts.value);
  }

  // Adds the labels in their templates, as the other tab sends them.
  fill() {
    const { labels } = this.page;
    labels.commit();
    const templates = linesOf(byId("template").value);
    const sentences = labels.values.flatMap((label) => templates.map((template) => template.replace("{}", () => label)));
    this.texts.value = [...new Set([...this.lines, ...sentences])].join("\n");
    this.texts.dispatchEvent(new Event("input"));
    if (!sentences.length) showMessage(byId("texts-message"), "There are no labels yet. Enter texts here.", this.texts);
    this.texts.focus();
  }

  get results() {
    return [...this.rows].filter(([, { cosines }]) => cosines).map(([{ name }, { cosines }]) => ({ name, similarities: cosines }));
  }

  saveCsv() {
    const rows = this.results.flatMap(({ name, similarities }) =>
      similarities.map((cosine, index) => [name, this.asked[index], cosine]));
    saveCsv("similarity.csv", ["image", "text", "cosine"], rows);
  }

  saveJson() {
    const { id, sha256 } = this.page.model ?? {};
    saveJson("similarity.json", { model: id, sha256, texts: this.asked, results: this.results });
  }

  onInputs() {
    const isStale = this.rows.size > 0;
    byId("heat").classList.toggle("stale", isStale);
    showMessage(byId("compare-message"), isStale ? "Press Compare to update the table." : "");
  }

  async run() {
    const { images, info, mayCall } = this.page;
    const texts = this.lines;
    const most = info.max_labels;
    const fault = texts.length > most ? `At most ${most} texts are allowed.` : texts.length ? "" : "Enter a text first.";
    showMessage(byId("texts-message"), fault, this.texts);
    if (fault) return this.texts.focus();
    showMessage(byId("compare-message"), images.items.length ? "" : "Add an image first.");
    if (!images.items.length || !mayCall()) return;
    this.controller.abort();
    this.controller = new AbortController();
    const { signal } = this.controller;
    this.draw(texts);
    await Promise.all([...this.rows.keys()].map((item) => this.compare(item, texts, signal)));
    if (!signal.aborted) announce(`Compared with ${counted(texts.length, "text")}`);
  }

  async compare(item, texts, signal) {
    const entry = this.rows.get(item);
    const fill = (...cells) => entry.row.replaceChildren(entry.row.firstChild, ...cells);
    const showText = (text, kind) => fill(el("td", { colspan: texts.length, class: kind }, el("span", null, text)));
    const onWait = (text) => showText(text, "busy muted");
    if (item.fault) return showText(item.fault, "error");
    onWait("Comparing");
    try {
      const values = texts.length === 1 ? [JSON.stringify(texts)] : texts; // a field that is a JSON array is that list
      const fields = values.map((value) => ["texts", value]);
      const { similarities, warnings } = await requestForImage("v1/similarity", item, fields, { signal, onWait });
      signal.throwIfAborted();
      entry.cosines = similarities;
      fill(...similarities.map((cosine, index) => el("td", { "data-text": numbered(texts[index], index) }, shown(cosine))));
      this.colour();
      warn(byId("compare-warnings"), warnings);
    } catch (error) {
      if (signal.aborted) return;
      showText(error.message, "error");
      announce(`${item.name}: ${error.message}`);
    }
  }

  draw(texts) {
    this.rows.clear();
    this.asked = texts;
    byId("heat").classList.remove("stale");
    byId("compare-downloads").hidden = true;
    warn(byId("compare-warnings"), null);
    const head = el("tr", null, el("td"), ...texts.map(heading));
    const body = el("tbody");
    for (const item of this.page.images.items) {
      const remove = removeButton(item.name, () => this.page.images.remove(item));
      const name = el("span", null, ...breakable(item.name));
      const title = el("div", { class: "row-name" }, thumbnail(item), name, remove);
      const row = el("tr", null, el("th", { scope: "row" }, title));
      this.rows.set(item, { row, cosines: null });
      body.append(row);
    }
    const table = el("table", { "aria-label": "Cosine of each image with each text" }, el("thead", null, head), body);
    const focusable = { tabindex: 0, role: "region", "aria-label": "Table of cosines" };
    const scroller = el("div", { class: "box scroller", ...focusable }, table);
    this.legend = el("div", { class: "row legend" });
    byId("heat").replaceChildren(scroller, this.legend);
    byId("compare-empty").hidden = true;
  }

  // Colours span the lowest to the highest cosine on screen, so each response updates all of them.
  colour() {
    const answered = [...this.rows.values()].filter(({ cosines }) => cosines);
    this.legend.hidden = byId("compare-downloads").hidden = !answered.length;
    if (!answered.length) return;
    const all = answered.flatMap(({ cosines }) => cosines);
    const [low, high] = [-greatest(all.map((cosine) => -cosine)), greatest(all)];
    for (const { row, cosines } of answered) {
      const best = greatest(cosines);
      cosines.forEach((cosine, index) => {
        const cell = row.cells[index + 1];
        cell.className = cosine === best ? "heat best" : "heat";
        cell.style.setProperty("--heat", `${high > low ? (100 * (cosine - low)) / (high - low) : 100}%`);
      });
    }
    this.legend.replaceChildren(
      shown(low),
      el("span", { class: "scale" }),
      shown(high),
      el("span", { class: "muted" }, "A stronger colour means more similar. Bold marks the best text of an image."),
    );
  }

  onRemoved(item) {
    const entry = this.rows.get(item);
    if (!entry) return;
    this.rows.delete(item);
    drop(entry.row);
    if (this.rows.size) return this.colour();
    byId("heat").replaceChildren();
    byId("compare-downloads").hidden = true;
    byId("compare-empty").hidden = false;
  }
}
