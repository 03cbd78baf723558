// The search page: sends a text or an image, and shows the results, most similar first.

import { events, getBlob, getJson, hasKey, postForm, postJson } from "./api.js";
import { announce, breakable, button, byId, counted, el, showMessage, warn } from "./dom.js";
import { Images } from "./images.js";
import { Status } from "./status.js";

const TOP_K = 24;
const PATH = "v1/search";
const ALL = "Images in the index"; // heading without a query

const info = { keys_required: false, max_body_bytes: Infinity };
const page = { info, model: null };
const status = new Status(page);
const images = new Images(info);
let last = new AbortController();
let again = () => {}; // repeats the last search
let shown = []; // object URLs of the thumbnails on screen

byId("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  forgetImage();
  const text = byId("text").value.trim();
  search(text);
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
byId("retry").addEventListener("click", () => {
  byId("retry").hidden = true;
  byId("text").focus();
  again();
});
events.addEventListener("accepted", () => {
  byId("text").focus();
  again();
});
addEventListener("hashchange", openLink);
status.start().then(openLink);

// The query text is in the fragment of the address, so that a reload or a shared link shows the same.
function openLink() {
  const text = new URLSearchParams(location.hash.slice(1)).get("text") ?? "";
  byId("text").value = text;
  forgetImage();
  if (text || !info.keys_required || hasKey()) search(text);
  else again = () => search("");
}

// Searches for a text; without one, shows the first images of the index.
function search(text) {
  if (text) run(`Results for ${text}`, (options) => postJson(PATH, { text, top_k: TOP_K }, options));
  else run(ALL, (options) => getJson(`${PATH}?top_k=${TOP_K}`, options));
  setLink(text && new URLSearchParams({ text }).toString());
}

function setLink(hash) {
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname);
}

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
  setLink("");
  run(`Results for ${file.name || "the image"}`, (options) => postForm(PATH, body, options));
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
  again = () => run(title, send);
  byId("retry").hidden = true;
  showMessage(message, "");
  warn(byId("warnings"), null);
  if (!status.mayCall()) return;
  byId("results").setAttribute("aria-busy", "true");
  try {
    const answer = await send({ signal, onWait: (text) => showMessage(message, text) });
    showMessage(message, "");
    warn(byId("warnings"), answer.warnings);
    show(answer, title, signal);
  } catch (error) {
    if (signal.aborted) return;
    showMessage(message, error.message);
    byId("retry").hidden = false;
  } finally {
    if (!signal.aborted) byId("results").removeAttribute("aria-busy");
  }
}

function show({ results, entries }, title, signal) {
  shown.forEach((url) => URL.revokeObjectURL(url));
  shown = [];
  byId("heading").textContent = title;
  byId("empty").hidden = results.length > 0;
  byId("empty").textContent = "Nothing was found: the index is empty.";
  byId("results").replaceChildren(...results.map((result) => card(result, signal)));
  announce(`${counted(results.length, title === ALL ? "image" : "result")} of ${counted(entries, "entry").replace("entrys", "entries")}`);
}

function card({ id, kind, name, score }, signal) {
  const frame = el("div", { class: "thumb" });
  const item = el("li", { class: "box" }, el("p", null, ...breakable(name)));
  if (score !== null) item.prepend(el("p", { class: "figure" }, score.toFixed(4)));
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
