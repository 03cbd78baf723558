"""Whether a loaded version answers as transformers does with its checkpoint, before any caller sees it."""

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

LEAST_COSINE = 0.999
"""Of an embedding to that of transformers in float32; bfloat16 and float16 stay above 0.9999."""
LARGEST_SCORE_ERROR = 0.02
"""bfloat16 stays below 0.015 (README.md, Measured)."""


@dataclass(frozen=True)
class Answers:
    """What is said of some images and labels.

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
    """How far a version's answers are off the reference.

    Attributes:
        image_cosine: The least cosine of an image embedding to its reference.
        text_cosine: The same of a text embedding.
        score: The largest difference of a score.
    """

    image_cosine: float
    text_cosine: float
    score: float

    @property
    def small(self) -> bool:
        """Whether the version may be served."""
        return min(self.image_cosine, self.text_cosine) >= LEAST_COSINE and self.score <= LARGEST_SCORE_ERROR

    def __str__(self) -> str:
        return (
            f"least cosine {self.image_cosine:.7f} (images) and {self.text_cosine:.7f} (labels), largest "
            f"error of a score {self.score:.7f}; the limits are {LEAST_COSINE} and {LARGEST_SCORE_ERROR}"
        )


def samples(images: Sequence[Path]) -> tuple[list[bytes], list[str]]:
    """The images to ask for, the demo's where none are given, and the labels."""
    paths = images or sorted(path for path in DEMO_IMAGES.iterdir() if path.suffix != ".json")
    labels: list[str] = json.loads((DEMO_IMAGES / "labels.json").read_text(encoding="utf-8"))[
        "candidate_labels"
    ]
    return [path.read_bytes() for path in paths], labels


def reference(checkpoint: Path, images: Sequence[bytes], labels: Sequence[str]) -> Answers:
    """What transformers answers in float32, with the processor and tokenizer of the checkpoint.

    Args:
        checkpoint: A directory in Hugging Face format.
        images: Encoded files.
        labels: Sent as they are.
    """
    import torch
    from PIL import Image
    from transformers import AutoTokenizer, CLIPModel
    from transformers.image_utils import load_image
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = CLIPModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = CLIPImageProcessorPil.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    length = model.config.text_config.max_position_embeddings
    tokens = tokenizer(list(labels), padding=True, truncation=True, max_length=length, return_tensors="pt")
    pictures = [load_image(Image.open(io.BytesIO(one))) for one in images]
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        found = model(pixel_values=pixels, **tokens)
    return Answers(
        found.image_embeds.numpy(),
        found.text_embeds.numpy(),
        found.logits_per_image.softmax(dim=-1).numpy(),
    )


def served(client: Any, version: int, images: Sequence[bytes], labels: Sequence[str]) -> Answers:
    """A version's answers, asked of each model in turn, since no ensemble serves it yet.

    Args:
        client: `tritonclient.http.InferenceServerClient`.
        version: Loaded by all Python models.
        images: Encoded files.
        labels: Texts.
    """

    def ask(model: str, output: str, **tensors: np.ndarray) -> np.ndarray:
        inputs = []
        for name, tensor in tensors.items():
            inputs.append(
                tritonclient.http.InferInput(name, list(tensor.shape), np_to_triton_dtype(tensor.dtype))
            )
            inputs[-1].set_data_from_numpy(tensor)
        wanted = [tritonclient.http.InferRequestedOutput(output)]
        result = client.infer(model, inputs, model_version=str(version), outputs=wanted)
        return np.asarray(result.as_numpy(output))

    text_embeds = ask(
        "text_encoder", "text_embeds", text=np.array([[one.encode() for one in labels]], object)
    )
    pixels = ask("image_preprocess", "pixel_values", image=np.array([list(images)], object))
    image_embeds = ask("vision_encoder", "image_embeds", pixel_values=pixels)
    scores = ask("similarity", "scores", image_embeds=image_embeds, text_embeds=text_embeds)
    return Answers(image_embeds[0], text_embeds[0], scores[0])


def compare(answers: Answers, expected: Answers) -> Difference:
    """How far answers are off those expected; infinitely where a shape differs or a number is not finite."""
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
