// Assembles the page. Its parts share the images, the labels and the server's limits.

import { address, events } from "./api.js";
import { startCamera } from "./camera.js";
import { Chips } from "./chips.js";
import { Classify } from "./classify.js";
import { startCode } from "./code.js";
import { Compare } from "./compare.js";
import { byId } from "./dom.js";
import { startExamples } from "./examples.js";
import { Images } from "./images.js";
import { startIntake } from "./intake.js";
import { read, startLink } from "./link.js";
import { Status } from "./status.js";
import { startTabs } from "./tabs.js";

// Until /v1/info has answered, the page enforces no limits.
const info = { keys_required: false, max_body_bytes: Infinity, max_labels: Infinity, hypothesis_template: "{}" };
const images = new Images(info);
const [list, input, message] = ["label-list", "label-input", "label-message"].map(byId);
const labels = new Chips({ list, input, message, info });
const page = { info, images, labels, model: null };
const status = new Status(page);
page.mayCall = () => status.mayCall();
const classify = new Classify(page);
const compare = new Compare(page);

startIntake(images);
startExamples(images, labels);
startCamera((file) => images.add([file]));

let action = () => classify.run();
const chooseTab = startTabs(document.querySelector("[role=tablist]"), (panel) => {
  const isClassify = panel.id === "classify-panel";
  action = isClassify ? () => classify.run() : () => compare.run();
  panel.querySelector(".inputs").prepend(byId("intake")); // both tabs share the images
  writeLink();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || byId("camera").open) return;
  event.preventDefault();
  action();
});

const shownImages = () => (images.usable.length ? images.usable : [{ name: "image.jpg" }]);
const request = (path, fields) => ({ url: address(path), images: shownImages(), fields, keys: info.keys_required });
// Show examples until there are values.
const listed = (name, values) => (values.length ? values : ["a cat", "a dog"]).map((value) => [name, value]);
const refreshes = [
  startCode(byId("classify-code"), () => request("v1/classify", [...listed("labels", labels.values), ...classify.options])),
  startCode(byId("compare-code"), () => request("v1/similarity", listed("texts", compare.lines))),
];
const refresh = () => refreshes.forEach((each) => each());
const writeLink = startLink(stateNow, show);
for (const kind of ["added", "removed"]) images.addEventListener(kind, refresh);
for (const act of [refresh, writeLink]) {
  labels.addEventListener("change", act);
  for (const id of ["template", "texts"]) byId(id).addEventListener("input", act);
}

function stateNow() {
  const template = byId("template").value;
  return {
    labels: labels.values,
    template: template === info.hypothesis_template ? "" : template,
    texts: byId("texts").value,
    tab: byId("compare-tab").ariaSelected === "true" ? "compare" : "",
  };
}

function show({ labels: values, template, texts, tab }) {
  labels.set(values);
  byId("template").value = template ?? (info.known ? info.hypothesis_template : "");
  byId("texts").value = texts ?? "";
  chooseTab(byId(tab === "compare" ? "compare-tab" : "classify-tab"));
  for (const id of ["template", "texts"]) byId(id).dispatchEvent(new Event("input"));
}
if (location.hash) show(read());

events.addEventListener("info", () => {
  byId("search-link").hidden = !info.search;
  byId("url-form").hidden = !info.url_input;
  if (!byId("template").value) byId("template").value = info.hypothesis_template;
  refresh();
});
events.addEventListener("model", () => {
  const { logit_scale } = page.model;
  const times = Math.exp(logit_scale / 100).toPrecision(2);
  byId("scale").textContent =
    `The logit scale of this model is ${logit_scale.toFixed(1)}, a value learned in training. Its reciprocal, ` +
    `${(1 / logit_scale).toPrecision(2)}, is called the temperature. If the cosine of one label is higher by 0.01, ` +
    `its score is ${times} times as high.`;
});
status.start();
