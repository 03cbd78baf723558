// The page header: model, server status, and the API key if one is required.

import { address, events, getJson, hasKey, remembered, useKey } from "./api.js";
import { announce, byId, el, showMessage } from "./dom.js";

const POLL_MS = 15_000;
const RANDOM = "This server runs random weights, for load tests. Its scores mean nothing. For real ones, serve trained weights: ";
const DEMO =
  "This server runs the demo model, which knows drawn shapes, colours and digits only. Its scores for photographs " +
  "mean nothing. For photographs, serve a full model: ";
const FULL_MODEL = "tritonclip-server serve openai/clip-vit-base-patch32";

export class Status {
  constructor(page) {
    this.page = page; // {info, model}, filled here
    byId("key-form").addEventListener("submit", (event) => this.onKey(event));
    byId("change-key").addEventListener("click", () => this.askKey(""));
    byId("remember").checked = remembered() !== "";
    events.addEventListener("unauthorized", () => this.onUnauthorized());
    document.addEventListener("visibilitychange", () => this.poll());
  }

  async start() {
    await this.loadInfo();
    await Promise.all([this.poll(), this.page.info.keys_required && !hasKey() ? this.askKey("") : this.loadModel()]);
  }

  // Returns true if calls are possible; otherwise asks for the key.
  mayCall() {
    if (!this.page.info.keys_required || hasKey()) return true;
    this.askKey("Enter the API key first.");
    return false;
  }

  async loadInfo() {
    try {
      Object.assign(this.page.info, await getJson("v1/info"), { known: true });
    } catch {
      return; // the next poll tries again
    }
    byId("version").textContent = `tritonclip ${this.page.info.version}`;
    events.dispatchEvent(new Event("info"));
  }

  async loadModel() {
    try {
      const [model] = (await getJson("v1/models")).data;
      this.page.model = model;
      byId("model").textContent = model.id;
      const warning = model.random_weights ? RANDOM : model.demo_weights ? DEMO : "";
      byId("weights").hidden = !warning;
      byId("weights").replaceChildren(warning, el("code", null, FULL_MODEL));
      byId("key-form").hidden = true;
      byId("change-key").hidden = !this.page.info.keys_required;
      events.dispatchEvent(new Event("model"));
      return true;
    } catch {
      return false; // onUnauthorized reports a rejected key; the next poll tries again
    }
  }

  async poll() {
    clearTimeout(this.timer);
    if (document.hidden) return;
    const [state, text] = await readiness();
    this.show(state, text);
    if (!this.page.info.known) await this.loadInfo();
    if (state !== "down" && !this.page.model && this.mayAsk()) await this.loadModel();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.poll(), POLL_MS);
  }

  mayAsk() {
    return !this.page.info.keys_required || (hasKey() && byId("key-form").hidden);
  }

  show(state, text) {
    const status = byId("status");
    if (status.textContent === text) return;
    if (status.dataset.state !== "unknown" || state !== "ready") announce(`Server: ${text}`);
    status.dataset.state = state;
    status.textContent = text;
  }

  askKey(message) {
    byId("key-form").hidden = false;
    byId("change-key").hidden = true;
    showMessage(byId("key-message"), message, byId("key"));
    if (message || document.activeElement === document.body) byId("key").focus();
  }

  onUnauthorized() {
    this.askKey(hasKey() ? "The server rejected this key. Check it and try again." : "The server requires an API key.");
  }

  async onKey(event) {
    event.preventDefault();
    const key = byId("key").value.trim();
    if (!key) return this.askKey("Enter the API key first.");
    useKey(key, byId("remember").checked);
    showMessage(byId("key-message"), "", byId("key"));
    if (!(await this.loadModel())) return;
    byId("key").value = "";
    announce("Key accepted");
    byId("choose").focus();
    events.dispatchEvent(new Event("accepted"));
  }
}

async function readiness() {
  try {
    const response = await fetch(address("readyz"), { cache: "no-store" });
    const { inference, reason } = await response.json();
    if (!response.ok) return ["down", reason ? `Not ready: ${reason}` : "Not ready"];
    return inference === "overloaded" ? ["busy", "Overloaded"] : ["ready", "Ready"];
  } catch {
    return ["down", "Not reachable"];
  }
}
