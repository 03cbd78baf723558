"""Answers of transformers in float32, with which the parity tests compare the server's."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import pipeline
from transformers.image_utils import load_image

from tests.helpers.pictures import varied_images
from tritonclip_server.repository.reference import Reference

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
TEXTS = (*LABELS, "two small yellow stars on a white background", "x" * 300)


@dataclass(frozen=True)
class ReferenceAnswers:
    """Answers for the n images of `varied_images`, the m labels `LABELS` and the k texts `TEXTS`.

    Attributes:
        scores: float64 [n, m], as the pipeline `zero-shot-image-classification` computes them.
        image_embeds: float32 [n, dim], unit L2 norm.
        text_embeds: float32 [k, dim], unit L2 norm.
    """

    scores: np.ndarray
    image_embeds: np.ndarray
    text_embeds: np.ndarray


@cache
def reference_answers(checkpoint: Path) -> ReferenceAnswers:
    """Compute the answers for a checkpoint, once per run."""
    reference = Reference(checkpoint, pillow=True)
    classify = pipeline(
        "zero-shot-image-classification",
        model=reference.model,
        tokenizer=reference.tokenizer,
        image_processor=reference.image_processor,
    )
    scores, pixels = [], []
    for encoded in varied_images().values():
        image = load_image(Image.open(io.BytesIO(encoded)))
        by_label = {one["label"]: one["score"] for one in classify(image, candidate_labels=list(LABELS))}
        scores.append([by_label[label] for label in LABELS])
        pixels.append(reference.pixel_values([image]))
    return ReferenceAnswers(
        np.array(scores), reference.embed_pixels(torch.cat(pixels)), reference.embed_texts(TEXTS)
    )
