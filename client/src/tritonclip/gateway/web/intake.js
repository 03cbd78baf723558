// Adds images from the file picker, by drop or by paste. See camera.js for photos.

import { announce, byId, counted, showMessage } from "./dom.js";

export function startIntake(images) {
  const files = byId("files");
  byId("choose").addEventListener("click", () => files.click());
  for (const input of [files, byId("capture")]) {
    input.addEventListener("change", () => {
      images.add(input.files);
      input.value = ""; // so that the same file can be chosen again
    });
  }
  byId("clear").addEventListener("click", () => {
    images.items.forEach((item) => images.remove(item));
    announce("All images removed");
    byId("choose").focus();
  });
  byId("url-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = byId("url");
    const isUrl = URL.canParse(field.value) && /^https?:/i.test(field.value);
    showMessage(byId("url-message"), isUrl ? "" : "Enter an address that begins with http:// or https://.", field);
    if (!isUrl) return field.focus();
    images.addByUrl(field.value);
    field.value = "";
  });
  document.addEventListener("paste", (event) => paste(images, event));
  startDrop(images);
  images.addEventListener("added", ({ detail }) => {
    showMessage(byId("intake-message"), "");
    announce(`${counted(detail.length, "image")} added`);
    showCount(images);
  });
  images.addEventListener("removed", () => showCount(images));
}

function paste(images, event) {
  const { files, types } = event.clipboardData;
  const isText = event.target.matches("input, textarea") && types.includes("text/plain");
  if (!files.length || isText) return;
  event.preventDefault();
  images.add(files);
}

function startDrop(images) {
  const hint = byId("drop-hint");
  const hasFiles = (event) => event.dataTransfer.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    hint.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) hint.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    hint.hidden = true;
    if (!hasFiles(event)) return;
    event.preventDefault();
    const items = Array.from(event.dataTransfer.items).filter(({ kind }) => kind === "file");
    const files = items.filter((item) => !item.webkitGetAsEntry?.()?.isDirectory).map((item) => item.getAsFile());
    images.add(files);
    if (files.length < items.length) showMessage(byId("intake-message"), "Folders are not supported. Drop the images in the folder instead.");
  });
}

function showCount({ items }) {
  byId("count").textContent = items.length ? counted(items.length, "image") : "No images yet";
  byId("clear").hidden = !items.length;
}
