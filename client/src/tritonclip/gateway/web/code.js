// The page's request as a curl command and as a Python program, with every label quoted.

import { announce, button, copy, el } from "./dom.js";

// A request is {url, images: [{name, address if the server fetches it}], fields: [[name, value]], keys: true if a key is required}.

const shellQuote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curl({ url, images, fields, keys }) {
  const key = keys ? ['-H "Authorization: Bearer $TRITONCLIP_KEY"'] : [];
  // curl's quoting of the file name, inside the shell's
  const image = ({ name, address }) =>
    address
      ? `--form-string ${shellQuote(`images=${address}`)}`
      : `-F ${shellQuote(`images=@"${name.replace(/[\\"]/g, "\\$&")}"`)}`;
  // --form-string, because -F reads a value that starts with @ or < from a file
  const rest = fields.map(([name, value]) => `--form-string ${shellQuote(`${name}=${value}`)}`);
  return [`curl -sS ${shellQuote(url)}`, ...key, ...images.map(image), ...rest].join(" \\\n  ");
}

function python({ url, images, fields, keys }) {
  const text = JSON.stringify; // JSON escapes are valid in Python
  const content = ({ name, address }) => (address ? `(None, ${text(address)})` : `open(${text(name)}, "rb")`);
  return `${keys ? "import os\n\n" : ""}import requests

answer = requests.post(
    ${text(url)},${keys ? '\n    headers={"Authorization": "Bearer " + os.environ["TRITONCLIP_KEY"]},' : ""}
    files=[
${images.map((each) => `        ("images", ${content(each)}),`).join("\n")}
    ],
    data=[
${fields.map(([name, value]) => `        (${text(name)}, ${text(value)}),`).join("\n")}
    ],
    timeout=60,
)
answer.raise_for_status()
for result in answer.json()["results"]:
    print(result)`;
}

// Fills a <details>, and returns a function that updates it while it is open.
export function startCode(details, requestNow) {
  const blocks = [["curl", curl], ["Python", python]].map(([title, write]) => {
    const pre = el("pre", { tabindex: 0, role: "group", "aria-label": `${title} code` });
    const onclick = () => copied(copyIt, pre);
    const copyIt = button("Copy", { class: "small", "aria-label": `Copy ${title}`, onclick });
    details.append(el("div", { class: "row" }, el("h3", null, title), copyIt), pre);
    return [pre, write];
  });
  const refresh = () => {
    for (const [pre, write] of details.open ? blocks : []) pre.textContent = write(requestNow());
  };
  details.addEventListener("toggle", refresh);
  return refresh;
}

async function copied(button, pre) {
  button.textContent = await copy(pre).then(() => "Copied", () => "Not allowed");
  announce(button.textContent);
  setTimeout(() => (button.textContent = "Copy"), 2000);
}
