// The card of an image: thumbnail, name, ranking or error, and buttons.

import { breakable, button, counted, el, percent, removeButton } from "./dom.js";
import { timingDetails } from "./timing.js";

const SHOWN = 5;

export class Card {
  state = el("div", { class: "state" });
  note = el("p", { class: "note" });

  constructor(item, { onRemove, onRetry, onEmbed }) {
    const small = (text, about, onclick) =>
      button(text, { class: "small", "aria-label": `${text}${about} ${item.name}`, onclick });
    this.retry = small("Try again", ":", onRetry);
    this.embed = small("Download embedding", " of", onEmbed);
    const name = el("h3", null, ...breakable(item.name));
    this.node = el(
      "li",
      { class: "box card" },
      el("div", { class: "card-top" }, thumbnail(item), name, removeButton(item.name, onRemove)),
      this.state,
      el("div", { class: "row" }, this.retry, this.embed),
      this.note,
    );
    this.show(el("p", { class: "muted" }, "Not classified yet"));
    if (item.fault) this.showError(item.fault, false);
  }

  show(...state) {
    this.state.replaceChildren(...state);
    this.isStale = false;
    this.retry.hidden = true;
    this.embed.hidden = false;
    this.note.textContent = "";
  }

  // Marks a ranking as one of other inputs.
  set isStale(isStale) {
    this.state.classList.toggle("stale", isStale);
  }

  // Shows a message above the last ranking, if there is one.
  showBusy(text) {
    const last = [...this.state.querySelectorAll(".ranking, .timing")];
    this.show(el("p", { class: "busy muted" }, text), ...last);
    this.isStale = last.length > 0;
  }

  showError(text, mayRetry) {
    this.show(el("p", { class: "message error" }, text));
    this.retry.hidden = !mayRetry;
    this.embed.hidden = true;
  }

  showRanking(predictions, timing) {
    const rows = predictions.map(ranked);
    this.show(el("ol", { class: "ranking" }, ...rows));
    if (rows.length > SHOWN) this.state.append(expander(rows));
    if (timing) this.state.append(timingDetails(timing));
  }
}

export function thumbnail({ url }) {
  const box = el("div", { class: "thumb" });
  // onerror: browsers cannot show some formats, such as TIFF
  if (url) box.append(el("img", { src: url, alt: "", loading: "lazy", onerror: () => box.replaceChildren() }));
  return box;
}

function ranked({ label, score, cosine }) {
  const bar = el("span", { class: "bar" });
  bar.style.setProperty("--score", percent(score));
  const figure = (text, kind = "") => el("span", { class: `figure ${kind}` }, text);
  return el("li", null, el("span", null, label), figure(percent(score)), bar, figure(`cosine ${cosine.toFixed(3)}`, "cosine"));
}

function expander(rows) {
  const toggle = button("", { class: "plain", onclick: () => show(toggle.getAttribute("aria-expanded") === "false") });
  const show = (all) => {
    for (const row of rows.slice(SHOWN)) row.hidden = !all;
    toggle.textContent = all ? `Show the best ${SHOWN}` : `Show all ${counted(rows.length, "label")}`;
    toggle.setAttribute("aria-expanded", all);
  };
  show(false);
  return toggle;
}
