"""Scoring: cosines of unit-norm embeddings, scaled to logits, and their softmax over the labels."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from clip_common.groups import Outcome, RequestError, split_rows
from clip_common.times import UNLIMITED, RejectedError, Times

FULL_REQUESTS_PER_BATCH = 4
"""Requests with as many scores as allowed that fit into a dynamic batch."""


class Embeds(NamedTuple):
    """The embeddings of one request."""

    image: np.ndarray
    """float32 [rows, n, dim], unit L2 norm."""
    text: np.ndarray
    """float32 [rows, m, dim], unit L2 norm."""
    times: Times = UNLIMITED
    """Arrival time and limits of the request, and the work on it."""

    @property
    def scores(self) -> int:
        """Number of scores: rows x n x m."""
        return self.image.shape[0] * self.image.shape[1] * self.text.shape[1]


def check_embeds(embeds: Embeds, max_scores: int) -> None:
    """Reject a request without images or labels, with unlike dimensions, or with too many scores.

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
    if embeds.scores > max_scores:
        raise RequestError(
            f"request too large: {embeds.scores} scores for image_embeds {list(image)} and text_embeds "
            f"{list(text)}, the limit is {max_scores} (max_scores); split the request"
        )


def score_in_bounds(requests: list[Embeds], logit_scale: float, max_scores: int) -> list[Outcome]:
    """Score as many requests of a dynamic batch as fit into its memory, and reject the others.

    Triton's shared memory grows to the largest batch and never shrinks.

    Args:
        requests: The embeddings of each request, with at most `max_scores` scores each.
        logit_scale: See `score`.
        max_scores: Limit on the scores of a request.
    """
    left, fits = FULL_REQUESTS_PER_BATCH * max_scores, []
    for request in requests:
        fits.append(request.scores <= left)
        left -= request.scores if fits[-1] else 0
    if all(fits):
        return score(requests, logit_scale)
    kept = [request for request, fit in zip(requests, fits, strict=True) if fit]
    outcomes = iter(score(kept, logit_scale))
    return [next(outcomes) if fit else _too_many_at_once() for fit in fits]


def _too_many_at_once() -> RejectedError:
    return RejectedError(
        "overload", "overloaded: too many scores at once; retry, or rank fewer labels per image"
    )


def _not_finite() -> RequestError:
    return RequestError(
        "image_embeds or text_embeds contain NaN, infinity or numbers too large to multiply; send "
        "embeddings of unit length"
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Compute the softmax over the last axis: float32 [..., m] -> float32 [..., m], rows that sum to 1."""
    weights = logits - logits.max(axis=-1, keepdims=True)
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def score(requests: list[Embeds], logit_scale: float) -> list[Outcome]:
    """Rank the images of each request against its labels, with one softmax for all requests of equal shape.

    Args:
        requests: The embeddings of each request.
        logit_scale: The multiplier of the cosine (about 100 for trained checkpoints).

    Returns:
        `scores` and `logits` of each request, float32 [rows, n, m], or RequestError if the squares of its
        cosines do not add up to a finite number.
    """
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, request in enumerate(requests):
        by_shape[(request.image.shape[1], request.text.shape[1])].append(index)
    outcomes: list[Outcome] = [{} for _ in requests]
    for shape, indices in by_shape.items():
        counts = [len(requests[index].image) for index in indices]
        logits = np.empty((sum(counts), *shape), np.float32)  # [rows, n, m]
        parts = split_rows(logits, counts)
        finite = [fill_cosines(requests[index], part) for index, part in zip(indices, parts, strict=True)]
        logits *= np.float32(logit_scale)
        results = zip(indices, finite, parts, split_rows(softmax(logits), counts), strict=True)
        for index, is_finite, own_logits, own_scores in results:
            outcomes[index] = {"scores": own_scores, "logits": own_logits} if is_finite else _not_finite()
    return outcomes


def fill_cosines(request: Embeds, cosines: np.ndarray) -> bool:
    """Compute the cosines of a request, or zeros if they are not finite or would overflow when scaled.

    `np.dot` and `np.vdot` give no warnings, which take longer to switch off than a small request takes.

    Args:
        request: The embeddings.
        cosines: Destination, float32 [rows, n, m].

    Returns:
        Whether the cosines were finite.
    """
    for image, text, row in zip(request.image, request.text, cosines, strict=True):
        np.dot(image, text.T, out=row)
    if math.isfinite(np.vdot(cosines, cosines)):
        return True
    cosines[:] = 0
    return False
