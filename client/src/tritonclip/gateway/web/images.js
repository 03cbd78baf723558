// The images of the page, which both tabs share, and checks of a file before it is sent.

const FORM_BYTES = 4096; // size of a request without its image and labels

// "added" (detail: items) and "removed" (detail: item).
export class Images extends EventTarget {
  items = [];

  constructor(info) {
    super();
    this.info = info;
  }

  add(files) {
    const items = Array.from(files, (file) => {
      const fault = this.faultOf(file);
      return { file, name: file.name || "image", fault, url: fault ? null : URL.createObjectURL(file) };
    });
    this.items.push(...items);
    if (items.length) this.dispatchEvent(new CustomEvent("added", { detail: items }));
  }

  // Adds an image that the server fetches. The page itself does not, so there is no thumbnail.
  addByUrl(address) {
    const { hostname, pathname } = new URL(address);
    const item = { address, name: pathname.split("/").at(-1) || hostname, fault: null, url: null };
    this.items.push(item);
    this.dispatchEvent(new CustomEvent("added", { detail: [item] }));
  }

  remove(item) {
    this.items = this.items.filter((each) => each !== item);
    if (item.url) URL.revokeObjectURL(item.url);
    this.dispatchEvent(new CustomEvent("removed", { detail: item }));
  }

  get usable() {
    return this.items.filter((item) => !item.fault);
  }

  // Returns why a file cannot be sent, or null. A file without a type may be an image, so the server decides.
  faultOf({ type, size }) {
    const most = this.info.max_body_bytes;
    if (type && !type.startsWith("image/")) return `Not an image: its type is ${type}.`;
    if (size === 0) return "The file is empty.";
    return size + FORM_BYTES > most ? `Too large: ${mib(size)} of at most ${mib(most)}.` : null;
  }
}

const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(bytes < 2 ** 20 ? 3 : 1)} MiB`;

export function dataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file can no longer be read."));
    reader.readAsDataURL(file);
  });
}
