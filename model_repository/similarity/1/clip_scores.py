"""Scoring: cosines of unit-norm embeddings, scaled to logits, and their softmax over the labels."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from clip_common.groups import Outputs, RequestError, split_rows


class Embeds(NamedTuple):
    """The embeddings of one request."""

    image: np.ndarray
    """float32 [rows, n, dim], unit L2 norm."""
    text: np.ndarray
    """float32 [rows, m, dim], unit L2 norm."""


def check_embeds(embeds: Embeds) -> None:
    """Refuses a request without images or labels, or whose two spaces differ.

    Raises:
        RequestError: Names the shapes.
    """
    image, text = embeds.image.shape, embeds.text.shape
    if len(image) != 3 or len(text) != 3:  # Triton drops a number of rows that is 0 once cut to 32 bits.
        raise RequestError(f"image_embeds {list(image)}, text_embeds {list(text)}: send [rows, number, dim]")
    if 0 in image or 0 in text:
        raise RequestError(f"nothing to rank: image_embeds {list(image)}, text_embeds {list(text)}")
    if image[2] != text[2]:
        raise RequestError(
            f"image_embeds have {image[2]} dimensions and text_embeds {text[2]}; "
            "both must come from one checkpoint"
        )


def _not_finite() -> RequestError:
    return RequestError(
        "image_embeds or text_embeds hold NaN, infinity or numbers too large to be multiplied; send "
        "embeddings of unit length"
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis: float32 [..., m] -> float32 [..., m], each row adding up to 1."""
    with np.errstate(invalid="ignore"):  # infinity less infinity
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def score(groups: list[Embeds], logit_scale: float) -> list[Outputs | Exception]:
    """Ranks every group; the softmax is taken over all groups of one shape at once.

    Args:
        groups: The embeddings of each request.
        logit_scale: The multiplier of the cosine (about 100 for trained checkpoints).

    Returns:
        For each request `scores` and `logits`, float32 [rows, n, m]; RequestError where the embeddings hold
        what is no finite number, or such large ones that their products are none.
    """
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        by_shape[(group.image.shape[1], group.text.shape[1])].append(index)
    results: list[Outputs | Exception] = [{} for _ in groups]
    for shape, indices in by_shape.items():
        counts = [len(groups[index].image) for index in indices]
        logits = np.empty((sum(counts), *shape), np.float32)  # [rows, n, m]
        for index, part in zip(indices, split_rows(logits, counts), strict=True):
            image, text = groups[index]
            with np.errstate(over="ignore", invalid="ignore"):  # what does not come out finite is refused
                np.matmul(np.float32(logit_scale) * image, text.transpose(0, 2, 1), out=part)
        parts = zip(indices, split_rows(logits, counts), split_rows(softmax(logits), counts), strict=True)
        for index, own_logits, own_scores in parts:
            finite = np.isfinite(own_logits).all()
            results[index] = {"scores": own_scores, "logits": own_logits} if finite else _not_finite()
    return results
