// Where the time of a request went: the header X-Timing, and a bar with a list of its parts.

import { el } from "./dom.js";

const NAMES = {
  queue: "waiting on Triton",
  text: "text encoding",
  decode: "decoding",
  encode: "image encoding",
  score: "scoring",
  wire: "between gateway and Triton",
  gateway: "gateway",
  network: "between page and gateway",
};

// Returns milliseconds by part, with what the page waited beyond the gateway's time; null without the header.
export function readTiming(header, waited_ms) {
  if (!header) return null;
  const pairs = header.split(", ").map((part) => part.split("="));
  const { total, ...parts } = Object.fromEntries(pairs.map(([name, value]) => [name, Number(value)]));
  return { ...parts, network: Math.max(waited_ms - total, 0) };
}

const inMs = (value) => `${value.toFixed(1)} ms`;

export function timingDetails(parts) {
  const known = Object.entries(NAMES).filter(([name]) => parts[name] > 0);
  const total_ms = known.reduce((sum, [name]) => sum + parts[name], 0);
  const bar = el("span", { class: "parts", "aria-hidden": "true" });
  const rows = known.map(([name, text]) => {
    const segment = el("span", { class: `part ${name}` });
    segment.style.setProperty("--share", `${(100 * parts[name]) / total_ms}%`);
    bar.append(segment);
    return el("li", null, el("span", { class: `key ${name}` }), el("span", null, text), el("span", { class: "figure" }, inMs(parts[name])));
  });
  return el("details", { class: "timing" }, el("summary", null, `Answered in ${inMs(total_ms)}`, bar), el("ul", null, ...rows));
}
