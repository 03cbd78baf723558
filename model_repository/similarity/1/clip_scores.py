"""Scoring: cosines of unit-norm embeddings, scaled to logits, and their softmax over the labels."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from clip_common.groups import Outcome, RequestError, split_rows


class Embeds(NamedTuple):
    """The embeddings of one request."""

    image: np.ndarray
    """float32 [rows, n, dim], unit L2 norm."""
    text: np.ndarray
    """float32 [rows, m, dim], unit L2 norm."""


def check_embeds(embeds: Embeds) -> None:
    """Reject a request without images or labels, or with embeddings of different dimensions.

    Raises:
        RequestError: Send [rows, number, dim] embeddings from one checkpoint. The text names the shapes.
    """
    image, text = embeds.image.shape, embeds.text.shape
    if (
        len(image) != 3 or len(text) != 3
    ):  # Triton drops the batch dimension if its size is a multiple of 2**32.
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
        "image_embeds or text_embeds contain NaN, infinity or numbers too large to multiply; send "
        "embeddings of unit length"
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Compute the softmax over the last axis: float32 [..., m] -> float32 [..., m], rows that sum to 1."""
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def score(requests: list[Embeds], logit_scale: float) -> list[Outcome]:
    """Rank the images of each request against its labels, with one softmax for all requests of equal shape.

    Args:
        requests: The embeddings of each request.
        logit_scale: The multiplier of the cosine (about 100 for trained checkpoints).

    Returns:
        `scores` and `logits` of each request, float32 [rows, n, m], or RequestError if a logit is not finite.
    """
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, request in enumerate(requests):
        by_shape[(request.image.shape[1], request.text.shape[1])].append(index)
    outcomes: list[Outcome] = [{} for _ in requests]
    for shape, indices in by_shape.items():
        counts = [len(requests[index].image) for index in indices]
        logits = np.empty((sum(counts), *shape), np.float32)  # [rows, n, m]
        for index, part in zip(indices, split_rows(logits, counts), strict=True):
            image, text = requests[index]
            with np.errstate(
                over="ignore", invalid="ignore"
            ):  # results that are not finite are rejected below
                np.matmul(np.float32(logit_scale) * image, text.transpose(0, 2, 1), out=part)
        parts = zip(indices, split_rows(logits, counts), split_rows(softmax(logits), counts), strict=True)
        for index, own_logits, own_scores in parts:
            finite = np.isfinite(own_logits).all()
            outcomes[index] = {"scores": own_scores, "logits": own_logits} if finite else _not_finite()
    return outcomes
