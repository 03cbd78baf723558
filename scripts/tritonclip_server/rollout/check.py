"""Compare a loaded version with transformers on the same checkpoint, before it serves any caller."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http
from tritonclient.utils import np_to_triton_dtype

from tritonclip_server.paths import DEMO_IMAGES

MIN_COSINE = 0.999
"""Smallest accepted cosine of an embedding to that of transformers in float32.

bfloat16 and float16 stay above 0.9999.
"""
MAX_SCORE_ERROR = 0.02
"""Largest accepted error of a score; bfloat16 stays below 0.015 (README.md, Accuracy)."""


@dataclass(frozen=True)
class Answers:
    """Embeddings and scores of some images and labels.

    Attributes:
        image_embeds: float32 [n, dim], unit L2 norm.
        text_embeds: float32 [m, dim], unit L2 norm.
        scores: float32 [n, m], a softmax over the labels.
    """

    image_embeds: np.ndarray
    text_embeds: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Difference:
    """Difference of a version's answers from the reference.

    Attributes:
        image_cosine: Smallest cosine of an image embedding to its reference.
        text_cosine: Smallest cosine of a text embedding to its reference.
        score: Largest error of a score.
    """

    image_cosine: float
    text_cosine: float
    score: float

    @property
    def is_small(self) -> bool:
        """True if the version may be served."""
        return min(self.image_cosine, self.text_cosine) >= MIN_COSINE and self.score <= MAX_SCORE_ERROR

    def __str__(self) -> str:
        return (
            f"smallest cosine {self.image_cosine:.7f} (images) and {self.text_cosine:.7f} (labels), largest "
            f"error of a score {self.score:.7f}; the limits are {MIN_COSINE} and {MAX_SCORE_ERROR}"
        )


def samples(images: Sequence[Path]) -> tuple[list[bytes], list[str]]:
    """Return the given images, or those of the demo, and the demo's labels."""
    paths = images or sorted(path for path in DEMO_IMAGES.iterdir() if path.suffix != ".json")
    labels: list[str] = json.loads((DEMO_IMAGES / "labels.json").read_text(encoding="utf-8"))[
        "candidate_labels"
    ]
    return [path.read_bytes() for path in paths], labels


def reference(
    checkpoint: Path, images: Sequence[bytes], labels: Sequence[str], image_processor: str
) -> Answers:
    """Return the answers of transformers in float32, with the checkpoint's processor and tokenizer.

    Args:
        checkpoint: A directory in Hugging Face format.
        images: Encoded image files.
        labels: Labels, without a template.
        image_processor: The parameter of `image_preprocess`.
    """
    # This module imports torch and transformers, which takes seconds.
    from PIL import Image
    from transformers.image_utils import load_image

    from tritonclip_server.repository.reference import Reference

    transformers = Reference(checkpoint, image_processor=image_processor)
    pixels = transformers.pixel_values([load_image(Image.open(io.BytesIO(one))) for one in images])
    found = transformers.forward(pixels, labels)
    return Answers(found.image_embeds, found.text_embeds, found.scores)


def served(client: Any, version: int, images: Sequence[bytes], labels: Sequence[str]) -> Answers:
    """Return a version's answers. Each model is called by itself, because no ensemble serves it yet.

    Args:
        client: `tritonclient.http.InferenceServerClient`.
        version: A version that all Python models have loaded.
        images: Encoded image files.
        labels: Labels, without a template.
    """

    def infer(model: str, output: str, **tensors: np.ndarray) -> np.ndarray:
        inputs = []
        for name, tensor in tensors.items():
            inputs.append(
                tritonclient.http.InferInput(name, list(tensor.shape), np_to_triton_dtype(tensor.dtype))
            )
            inputs[-1].set_data_from_numpy(tensor)
        wanted = [tritonclient.http.InferRequestedOutput(output)]
        result = client.infer(model, inputs, model_version=str(version), outputs=wanted)
        return np.asarray(result.as_numpy(output))

    text_embeds = infer(
        "text_encoder", "text_embeds", text=np.array([[one.encode() for one in labels]], object)
    )
    pixels = infer("image_preprocess", "pixel_values", image=np.array([list(images)], object))
    image_embeds = infer("vision_encoder", "image_embeds", pixel_values=pixels)
    scores = infer("similarity", "scores", image_embeds=image_embeds, text_embeds=text_embeds)
    return Answers(image_embeds[0], text_embeds[0], scores[0])


def compare(answers: Answers, expected: Answers) -> Difference:
    """Return the difference of two answers; infinite if a shape differs or a number is not finite."""
    parts = [
        (getattr(answers, name), getattr(expected, name))
        for name in ("image_embeds", "text_embeds", "scores")
    ]
    if any(one.shape != other.shape or not np.isfinite(one).all() for one, other in parts):
        return Difference(-1.0, -1.0, float("inf"))
    (images, want_images), (texts, want_texts), (scores, want_scores) = parts
    return Difference(
        float((images * want_images).sum(axis=-1).min()),
        float((texts * want_texts).sum(axis=-1).min()),
        float(abs(scores - want_scores).max()),
    )
