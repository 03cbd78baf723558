"""Answers of transformers in float32, with which tests compare the server's and the client's."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.pictures import varied_image

LABELS = (
    "temple",
    "flower",
    "red circle",
    "blue square",
    "cat",
    "noise",
    "the digit seven",
    "ein Haus",
    "🙂",
)
HYPOTHESIS = "This is a photo of {}."
"""Default template of the pipeline."""
TEXTS = (*LABELS, "two small yellow stars on a white background", "x" * 300)


class ReferenceAnswers:
    """Answers for images of `varied_images` by name, the labels `LABELS` and the texts `TEXTS`.

    Each image is computed on its first use. `reference_answers` makes one object per checkpoint and run.

    Args:
        checkpoint: A directory in Hugging Face format.
    """

    def __init__(self, checkpoint: Path) -> None:
        from tritonclip_server.repository.reference import Reference

        self._reference = Reference(checkpoint)
        self._scores: dict[str, np.ndarray] = {}
        self._image_embeds: dict[str, np.ndarray] = {}
        self._pipeline_scores: dict[str, list[float]] = {}

    def scores(self, names: Iterable[str]) -> np.ndarray:
        """Return float32 [n, m], computed by the model for all images together."""
        self._compute(names)
        return np.stack([self._scores[name] for name in names])

    def image_embeds(self, names: Iterable[str]) -> np.ndarray:
        """Return float32 [n, dim], unit L2 norm."""
        self._compute(names)
        return np.stack([self._image_embeds[name] for name in names])

    @cached_property
    def text_embeds(self) -> np.ndarray:
        """float32 [k, dim], unit L2 norm."""
        return self._reference.embed_texts(TEXTS)

    def pipeline_scores(self, names: Iterable[str]) -> np.ndarray:
        """Return float64 [n, m], computed by the pipeline `zero-shot-image-classification`."""
        for name in (name for name in names if name not in self._pipeline_scores):
            ranked = self._pipeline(_load(name), candidate_labels=list(LABELS))
            by_label = {one["label"]: one["score"] for one in ranked}
            self._pipeline_scores[name] = [by_label[label] for label in LABELS]
        return np.array([self._pipeline_scores[name] for name in names])

    @cached_property
    def _pipeline(self) -> Any:
        from transformers import pipeline

        return pipeline(
            "zero-shot-image-classification",
            model=self._reference.model,
            tokenizer=self._reference.tokenizer,
            image_processor=self._reference.image_processor,
        )

    def _compute(self, names: Iterable[str]) -> None:
        new = [name for name in names if name not in self._scores]
        if new:
            pixels = self._reference.pixel_values([_load(name) for name in new])
            output = self._reference.forward(pixels, [HYPOTHESIS.format(label) for label in LABELS])
            self._scores |= zip(new, output.scores, strict=True)
            self._image_embeds |= zip(new, output.image_embeds, strict=True)


@cache
def reference_answers(checkpoint: Path) -> ReferenceAnswers:
    """Return the answers for a checkpoint, the same object in the whole run."""
    return ReferenceAnswers(checkpoint)


def _load(name: str) -> Any:
    """Open an image as transformers does."""
    from PIL import Image
    from transformers.image_utils import load_image

    return load_image(Image.open(io.BytesIO(varied_image(name))))
