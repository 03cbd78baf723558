// Keeps labels, template, texts and tab in the page's address, so that a reload or a shared link shows them again.
// They are in its fragment, which browsers do not send to servers. Images are not part of it.

const MAX_CHARS = 8000; // longer addresses are cut by other programs, so then the address stays without state
const WRITE_AFTER_MS = 300; // browsers limit how often an address may change

// The state is {labels: [text], template, texts, tab}. `read` returns what the address holds of it.
export function read() {
  const found = new URLSearchParams(location.hash.slice(1));
  return { ...Object.fromEntries(found), labels: found.getAll("label") };
}

// Calls show(state) when a link is opened in the same tab, and returns a function that writes the state soon.
export function startLink(stateNow, show) {
  let timer;
  addEventListener("hashchange", () => {
    clearTimeout(timer);
    show(read());
  });

  function write() {
    const { labels, ...rest } = stateNow();
    const fields = [...labels.map((label) => ["label", label]), ...Object.entries(rest).filter(([, value]) => value)];
    const text = new URLSearchParams(fields).toString();
    const hash = text && text.length <= MAX_CHARS ? `#${text}` : "";
    if (hash !== location.hash) history.replaceState(null, "", hash || location.pathname + location.search);
  }

  return () => {
    clearTimeout(timer);
    timer = setTimeout(write, WRITE_AFTER_MS);
  };
}
