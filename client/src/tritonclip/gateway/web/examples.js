// A gallery of example images to click, served by the gateway itself.

import { address } from "./api.js";
import { button, byId, el, showMessage } from "./dom.js";

const EXAMPLES = {
  "red_circle.jpg": "a red circle",
  "blue_square.webp": "a blue square",
  "green_heart_rotated.jpg": "a green heart",
  "purple_star.png": "a purple star",
  "yellow_arrow.png": "a yellow arrow",
  "digit_7.jpg": "the digit 7",
};

// An example adds its image, and its labels too if there are none yet.
export function startExamples(images, labels) {
  const pictures = Object.entries(EXAMPLES).map(([name, label]) => {
    const url = address(`static/examples/${name}`);
    const choose = button("", { class: "thumb", "aria-label": `Example: ${label}`, onclick: () => add(name, url) });
    choose.append(el("img", { src: url, alt: "" }));
    return el("li", null, choose);
  });
  byId("examples").append(...pictures);

  async function add(name, url) {
    try {
      const response = await fetch(url);
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      const blob = await response.blob();
      if (!labels.values.length) labels.add(Object.values(EXAMPLES));
      images.add([new File([blob], name, { type: blob.type })]);
    } catch (error) {
      showMessage(byId("intake-message"), `The example cannot be loaded: ${error.message}.`);
    }
  }
}
