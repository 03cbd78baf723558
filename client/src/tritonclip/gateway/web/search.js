// The search page: sends a text or an image, and shows the results, most similar first.

import { events, getBlob, postForm, postJson } from "./api.js";
import { announce, breakable, button, byId, counted, el, showMessage, warn } from "./dom.js";
import { Images } from "./images.js";
import { Status } from "./status.js";

const TOP_K = 24;
const PATH = "v1/search";

const info = { keys_required: false, max_body_bytes: Infinity };
const page = { info, model: null };
const status = new Status(page);
const images = new Images(info);
let last = new AbortController();
let shown = []; // object URLs of the thumbnails on screen

byId("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  forgetImage();
  const text = byId("text").value.trim();
  if (text) run(text, (options) => postJson(PATH, { text, top_k: TOP_K }, options));
  else {
    showMessage(byId("search-message"), "Describe the images, or choose an image.", byId("text"));
    byId("text").focus();
  }
});
byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", ({ target }) => {
  searchWith(target.files);
  target.value = ""; // so that the same file can be chosen again
});
byId("forget").addEventListener("click", () => {
  forgetImage();
  byId("text").focus();
});
document.addEventListener("paste", (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  searchWith(event.clipboardData.files);
});
document.addEventListener("dragover", (event) => {
  if (event.dataTransfer.types.includes("Files")) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  searchWith(event.dataTransfer.files);
});
events.addEventListener("accepted", () => byId("text").focus());
status.start();

function searchWith([file]) {
  if (!file) return;
  const fault = images.faultOf(file);
  if (fault) {
    showMessage(byId("search-message"), fault);
    return;
  }
  forgetImage();
  byId("text").value = "";
  byId("query-image").src = URL.createObjectURL(file);
  byId("query-name").textContent = file.name || "image";
  byId("query").hidden = false;
  const body = new FormData();
  body.append("image", file, file.name || "image");
  body.append("top_k", TOP_K);
  run(file.name || "the image", (options) => postForm(PATH, body, options));
}

function forgetImage() {
  byId("query").hidden = true;
  URL.revokeObjectURL(byId("query-image").src);
  byId("query-image").removeAttribute("src");
}

async function run(title, send) {
  last.abort();
  last = new AbortController();
  const { signal } = last;
  const message = byId("search-message");
  showMessage(message, "", byId("text"));
  warn(byId("warnings"), null);
  if (!status.mayCall()) return;
  byId("results").setAttribute("aria-busy", "true");
  try {
    const answer = await send({ signal, onWait: (text) => showMessage(message, text) });
    showMessage(message, "");
    warn(byId("warnings"), answer.warnings);
    show(answer, title, signal);
  } catch (error) {
    if (!signal.aborted) showMessage(message, error.message);
  } finally {
    if (!signal.aborted) byId("results").removeAttribute("aria-busy");
  }
}

function show({ results, entries }, title, signal) {
  shown.forEach((url) => URL.revokeObjectURL(url));
  shown = [];
  byId("heading").textContent = `Results for ${title}`;
  byId("empty").hidden = results.length > 0;
  byId("empty").textContent = "Nothing was found: the index is empty.";
  byId("results").replaceChildren(...results.map((result) => card(result, signal)));
  announce(`${counted(results.length, "result")} of ${counted(entries, "entry").replace("entrys", "entries")}`);
}

function card({ id, kind, name, score }, signal) {
  const frame = el("div", { class: "thumb" });
  const item = el("li", { class: "box" }, el("p", { class: "figure" }, score.toFixed(4)), el("p", null, ...breakable(name)));
  if (kind !== "image") return item;
  item.prepend(frame);
  draw(frame, id, name, signal, item);
  return item;
}

async function draw(frame, id, name, signal, item) {
  try {
    const picture = await getBlob(`${PATH}/${id}/thumbnail`, { signal });
    const url = URL.createObjectURL(picture);
    shown.push(url);
    frame.replaceChildren(el("img", { src: url, alt: name }));
    const more = () => searchWith([new File([picture], name.split("/").at(-1), { type: picture.type })]);
    item.append(button("More like this", { class: "small", "aria-label": `More like this: ${name}`, onclick: more }));
  } catch {
    if (!signal.aborted) frame.replaceChildren(el("p", { class: "muted" }, "The file is missing or busy."));
  }
}
