"""Classify an image with an exported CLIP: python client/examples/onnx_classify.py FOLDER IMAGE LABEL...

FOLDER is the output of `tritonclip-server export-onnx`. The example needs numpy, onnxruntime, tokenizers and
pillow, but neither torch, transformers nor a server. The environment variable PRECISION=float16 selects the
float16 encoders.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer

TEMPLATE = "This is a photo of {}."  # the default of transformers' pipeline


class OnnxClip:
    """The image and text encoders of an export, run on the CPU.

    Args:
        folder: Folder of the export.
        precision: Name of the subfolder with the encoders, `float32` or `float16`.
    """

    def __init__(self, folder: Path, precision: str = "float32") -> None:
        self.settings: dict[str, Any] = json.loads((folder / "clip.json").read_text(encoding="utf-8"))
        self._image, self._text = (
            onnxruntime.InferenceSession(
                folder / precision / f"{tower}.onnx", providers=["CPUExecutionProvider"]
            )
            for tower in ("image_encoder", "text_encoder")
        )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        text = self.settings["text"]
        self._tokenizer.enable_truncation(text["max_tokens"])
        self._tokenizer.enable_padding(pad_id=text["pad_token_id"])

    def embed_images(self, images: list[Image.Image]) -> np.ndarray:
        """Embed images as float32 [n, dim], unit L2 norm."""
        pixels = np.stack([self.pixel_values(image) for image in images])
        return np.asarray(self._image.run(None, {"pixel_values": pixels})[0])

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Embed texts without a template as float32 [m, dim], unit L2 norm."""
        ids = np.array([one.ids for one in self._tokenizer.encode_batch(texts)], dtype=np.int64)
        return np.asarray(self._text.run(None, {"input_ids": ids})[0])

    def classify(self, image: Image.Image, labels: list[str]) -> list[tuple[str, float]]:
        """Return the labels with their scores, highest score first."""
        texts = self.embed_texts([TEMPLATE.format(label) for label in labels])
        logits = self.settings["logit_scale"] * (texts @ self.embed_images([image])[0])
        powers = np.exp(logits - logits.max())
        scores = powers / powers.sum()
        return [(labels[n], float(scores[n])) for n in np.argsort(-scores, kind="stable")]

    def pixel_values(self, image: Image.Image) -> np.ndarray:
        """Preprocess an image like transformers: float32 [3, h, w], normalised."""
        options = self.settings["image"]
        rgb = _upright_rgb(image, on_white=options["convert_rgb"])
        if options["resize"] is not None:
            rgb = rgb.resize(_resized(rgb.size, options["resize"]), options["resample"])
        if options["crop"] is not None:
            height, width = options["crop"]
            left, top = (rgb.width - width) // 2, (rgb.height - height) // 2
            rgb = rgb.crop((left, top, left + width, top + height))  # black outside the image
        scaled = np.asarray(rgb, dtype=np.float32) * np.float32(options["rescale_factor"])
        normalised = (scaled - np.float32(options["image_mean"])) / np.float32(options["image_std"])
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def _upright_rgb(image: Image.Image, *, on_white: bool) -> Image.Image:
    """Apply the EXIF orientation and convert to RGB; `on_white` replaces a transparent colour by white."""
    rgb = ImageOps.exif_transpose(image).convert("RGB")
    if not on_white or rgb.info.get("transparency") is None:
        return rgb
    white = Image.new("RGBA", rgb.size, "white")
    return Image.alpha_composite(white, rgb.convert("RGBA")).convert("RGB")


def _resized(size: tuple[int, int], resize: int | list[int]) -> tuple[int, int]:
    """Return the new (width, height). A single number is the new length of the shorter edge."""
    if isinstance(resize, list):
        return resize[1], resize[0]
    short = min(size)
    width, height = (resize if side == short else int(resize * side / short) for side in size)
    return width, height


def main() -> int:
    """Print the labels and their scores; return the exit code."""
    if len(sys.argv) < 4:
        sys.stderr.write((__doc__ or "").splitlines()[0] + "\n")
        return 2
    folder, image, *labels = sys.argv[1:]
    clip = OnnxClip(Path(folder), os.environ.get("PRECISION", "float32"))
    with Image.open(image) as opened:
        for label, score in clip.classify(opened, labels):
            sys.stdout.write(f"{score:.4f}  {label}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
