// The tab "Classify". Each image is one request, whose result fills its card.

import { requestForImage, events, postJson } from "./api.js";
import { Card } from "./card.js";
import { announce, byId, counted, drop, linesOf, percent, showMessage, warn } from "./dom.js";
import { saveCsv, saveJson } from "./download.js";
import { dataUri } from "./images.js";

export class Classify {
  cards = new Map(); // item -> {card, controller, status of the last response, predictions: null if there are none}
  isStale = false; // results belong to other labels than those on screen

  constructor(page) {
    this.page = page; // {images, labels, info, model, mayCall}
    this.template = byId("template");
    page.images.addEventListener("added", ({ detail }) => this.onAdded(detail));
    page.images.addEventListener("removed", ({ detail }) => this.onRemoved(detail));
    page.labels.addEventListener("change", () => this.onInputs());
    this.template.addEventListener("input", () => this.onInputs());
    events.addEventListener("accepted", () => this.onAccepted());
    byId("classify").addEventListener("click", () => this.run());
    byId("retry").addEventListener("click", () => this.retryFailed());
    byId("csv").addEventListener("click", () => this.saveCsv());
    byId("json").addEventListener("click", () => this.saveJson());
  }

  get labels() {
    return this.page.labels.values;
  }

  get templates() {
    return linesOf(this.template.value);
  }

  // The fault of the first template without a place for the label; empty if there is none.
  get templateFault() {
    const { templates } = this;
    const index = templates.findIndex((template) => !template.includes("{}"));
    if (templates.length && index < 0) return "";
    return `${templates.length > 1 ? `Template ${index + 1}: add` : "Add"} {} as a placeholder for the label.`;
  }

  // The fields of a request next to its images and labels.
  get options() {
    return [...this.templates.map((template) => ["hypothesis_template", template]), ["cosines", "true"]];
  }

  get fields() {
    const { labels } = this;
    // a single field is split at its commas unless it is a JSON array
    const values = labels.length === 1 ? [JSON.stringify(labels)] : labels;
    return [...values.map((value) => ["labels", value]), ...this.options];
  }

  get failed() {
    return [...this.cards].filter(([item, { status }]) => !item.fault && status !== null && status !== 200);
  }

  get results() {
    return [...this.cards].filter(([, { predictions }]) => predictions).map(([{ name }, { predictions }]) => ({ name, predictions }));
  }

  run() {
    const { labels, images, mayCall } = this.page;
    labels.commit();
    if (!this.check() || !mayCall()) return;
    this.isStale = false;
    showMessage(byId("classify-message"), images.items.length ? "" : "Add an image first.");
    warn(byId("warnings"), null);
    for (const item of images.usable) this.classify(item);
  }

  // Reports missing input next to its field; returns true if nothing is missing.
  check() {
    const { input, message } = this.page.labels;
    const { templateFault } = this;
    if (!this.labels.length) showMessage(message, "Add a label first.", input);
    showMessage(byId("template-message"), templateFault, this.template);
    if (!this.labels.length) input.focus();
    else if (templateFault) this.template.focus();
    return this.labels.length > 0 && !templateFault;
  }

  async classify(item) {
    const entry = this.cards.get(item);
    const { card } = entry;
    entry.controller.abort();
    entry.controller = new AbortController();
    const { signal } = entry.controller;
    entry.status = null;
    card.showBusy("Classifying");
    this.showState();
    try {
      const onWait = (text) => card.showBusy(text);
      const { predictions, warnings, timing } = await requestForImage("v1/classify", item, this.fields, { signal, onWait });
      signal.throwIfAborted();
      entry.status = 200;
      entry.predictions = predictions;
      card.showRanking(predictions, timing);
      warn(byId("warnings"), warnings);
      announce(`${item.name}: ${predictions[0].label}, ${percent(predictions[0].score)}`);
    } catch (error) {
      if (signal.aborted) return;
      entry.status = error.status;
      entry.predictions = null;
      card.showError(error.message, true);
      announce(`${item.name}: ${error.message}`);
    }
    this.showState();
  }

  retryFailed() {
    if (!this.check() || !this.page.mayCall()) return;
    for (const [item] of this.failed) this.classify(item);
    byId("classify").focus(); // the button disappears
  }

  saveCsv() {
    const rows = this.results.flatMap(({ name, predictions }) =>
      predictions.map(({ label, score, cosine }) => [name, label, score, cosine]));
    saveCsv("classification.csv", ["image", "label", "score", "cosine"], rows);
  }

  saveJson() {
    const { id, sha256 } = this.page.model ?? {};
    saveJson("classification.json", { model: id, sha256, results: this.results });
  }

  async embed(item) {
    const { card } = this.cards.get(item);
    const note = (text) => (card.note.textContent = text);
    try {
      const isLarge = item.file && (item.file.size * 4) / 3 > this.page.info.max_body_bytes;
      if (isLarge) throw new Error("Too large, because base64 adds a third.");
      note("Requesting the embedding");
      const asked = { model: "clip", input: item.address ?? (await dataUri(item.file)), modality: "image" };
      const { model, data } = await postJson("v1/embeddings", asked, { onWait: note });
      const sha256 = this.page.model?.sha256 ?? null;
      saveJson(`${item.name}.embedding.json`, { model, sha256, image: item.name, embedding: data[0].embedding });
      note("");
      announce(`Embedding of ${item.name} downloaded`);
    } catch (error) {
      note(error.message);
      announce(`${item.name}: ${error.message}`);
    }
  }

  onAdded(items) {
    const isReady = this.labels.length > 0 && !this.templateFault && this.page.mayCall();
    for (const item of items) {
      const card = new Card(item, {
        onRemove: () => this.page.images.remove(item),
        onRetry: () => this.check() && this.classify(item),
        onEmbed: () => this.embed(item),
      });
      this.cards.set(item, { card, controller: new AbortController(), status: null, predictions: null });
      byId("gallery").append(card.node);
      if (item.fault) announce(`${item.name}: ${item.fault}`);
      else if (isReady) this.classify(item);
    }
    this.showState();
  }

  onRemoved(item) {
    const { card, controller } = this.cards.get(item);
    controller.abort();
    this.cards.delete(item);
    drop(card.node);
    this.showState();
  }

  onInputs() {
    const answered = [...this.cards.values()].filter(({ status }) => status === 200);
    this.isStale = answered.length > 0;
    for (const { card } of answered) card.isStale = true;
    if (!this.templateFault) showMessage(byId("template-message"), "", this.template);
    this.showState();
  }

  onAccepted() {
    for (const [item, { status }] of this.cards) if (status === 401) this.classify(item);
  }

  showState() {
    byId("empty").hidden = this.cards.size > 0;
    const isStale = this.isStale && this.cards.size > 0;
    const text = isStale ? "The inputs have changed. Press Classify to update the results." : "";
    byId("classify-message").textContent = text;
    byId("downloads").hidden = !this.results.length;
    const { length } = this.failed;
    byId("retry").hidden = length < 2; // a single card has its own button
    byId("retry").textContent = `Try ${counted(length, "failed image")} again`;
  }
}
