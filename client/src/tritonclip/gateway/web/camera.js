// Takes a photo in a dialog. Without camera access, opens the file picker with `capture` instead.

import { announce, byId, el, showMessage } from "./dom.js";

const JPEG_QUALITY = 0.92;

export function startCamera(onPhoto) {
  const [dialog, video, shutter] = [byId("camera"), byId("preview"), byId("shutter")];
  const capture = byId("capture");
  let stream = null;
  let taken = 0;

  async function open() {
    if (!navigator.mediaDevices?.getUserMedia || !isSecureContext) {
      capture.click();
      return;
    }
    shutter.disabled = true;
    byId("camera-file").hidden = true;
    showMessage(byId("camera-message"), "");
    dialog.showModal();
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      if (!dialog.open) return stop();
      video.srcObject = stream;
      await video.play();
      shutter.disabled = false;
      shutter.focus();
    } catch (error) {
      if (!dialog.open) return;
      showMessage(byId("camera-message"), `The camera cannot be used: ${error.message || error.name}.`);
      byId("camera-file").hidden = false;
    }
  }

  function stop() {
    for (const track of stream?.getTracks() ?? []) track.stop();
    stream = video.srcObject = null;
  }

  async function shoot() {
    const canvas = el("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", JPEG_QUALITY));
    taken += 1;
    dialog.close();
    announce("Photo taken");
    onPhoto(new File([blob], `photo-${taken}.jpg`, { type: "image/jpeg" }));
  }

  byId("photo").addEventListener("click", open);
  shutter.addEventListener("click", shoot);
  byId("camera-close").addEventListener("click", () => dialog.close());
  byId("camera-file").addEventListener("click", () => {
    dialog.close();
    capture.click();
  });
  dialog.addEventListener("close", stop);
}
