"""Check answers: their form, and their agreement with the first answer to the same question. Pure.

An answer that was swapped with another caller's is well formed. The first answer is therefore kept for each
picture with its labels, and for each text. Numbers vary slightly with the other members of a dynamic batch;
README.md has the measured differences.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .workload import EMPTY_TEXT, Fault, Job

SUM_TOLERANCE = 1e-3
NORM_TOLERANCE = 1e-3
Array = npt.NDArray[np.float32]


class WrongAnswerError(Exception):
    """The server returned a wrong answer.

    Attributes:
        reason: Kind of error, from a small set, for counting.
        detail: The question and the answer.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class FirstAnswers:
    """First answer to each question, for comparison with later ones.

    The numbers of pictures and label sets bound its size.

    Args:
        score_tolerance: Largest difference between two scores.
        cosine_tolerance: Largest 1 - cosine between two embeddings.
    """

    def __init__(self, score_tolerance: float, cosine_tolerance: float) -> None:
        self._score_tolerance = score_tolerance
        self._cosine_tolerance = cosine_tolerance
        self._kept: dict[Hashable, Array] = {}

    def check(self, job: Job, answer: Any) -> None:
        """Check the answer to a valid job.

        Args:
            job: The request.
            answer: For `classify` a list of predictions for each image, otherwise embeddings [n, d].

        Raises:
            WrongAnswerError: The answer is malformed, or differs from the first answer to the same question.
        """
        if job.kind == "classify":
            self._check_scores(job, answer)
        elif job.kind == "embed_images":
            self._check_embeddings([("image", image) for image in job.images], answer)
        else:
            self._check_embeddings([("text", text) for text in job.texts], answer)

    def _check_scores(self, job: Job, rankings: Sequence[Sequence[Any]]) -> None:
        _require(len(rankings) == len(job.images), "wrong shape", f"{len(rankings)} rankings for {job}")
        for image, ranking in zip(job.images, rankings, strict=True):
            scores = scores_of(ranking, job.texts)
            kept = self._kept.setdefault((image, job.texts), scores)
            difference = float(np.abs(scores - kept).max())
            _require(
                difference <= self._score_tolerance,
                "differs from first answer",
                f"scores of picture {image} differ by {difference:.4f} for {job.texts}",
            )

    def _check_embeddings(self, keys: Sequence[Hashable], embeds: Array) -> None:
        _require(embeds.ndim == 2 and len(embeds) == len(keys), "wrong shape", f"{embeds.shape} for {keys}")
        _require(bool(np.isfinite(embeds).all()), "not finite", f"embeddings of {keys}")
        norms = np.linalg.norm(embeds, axis=1)
        _require(bool((np.abs(norms - 1) <= NORM_TOLERANCE).all()), "norm not 1", f"{norms} for {keys}")
        for key, embed in zip(keys, embeds, strict=True):
            kept = self._kept.setdefault(key, embed.copy())
            _require(kept.shape == embed.shape, "wrong shape", f"{embed.shape}, previously {kept.shape}")
            distance = 1 - float(kept @ embed)
            _require(
                distance <= self._cosine_tolerance,
                "differs from first answer",
                f"1 - cosine is {distance:.6f} for {key}",
            )


def scores_of(ranking: Sequence[Any], labels: Sequence[str]) -> Array:
    """Return the scores of a ranking in the order of the labels, float32 [m].

    Raises:
        WrongAnswerError: The labels differ, or the scores are not a sorted distribution.
    """
    found = {entry["label"]: entry["score"] for entry in ranking}
    _require(len(ranking) == len(labels) and found.keys() == set(labels), "wrong labels", f"{ranking}")
    scores = np.array([found[label] for label in labels], dtype=np.float32)
    _require(bool(np.isfinite(scores).all()), "not finite", f"{ranking}")
    _require(bool((scores >= 0).all()) and abs(scores.sum() - 1) <= SUM_TOLERANCE, "sum not 1", f"{ranking}")
    order = [entry["score"] for entry in ranking]
    _require(order == sorted(order, reverse=True), "not sorted", f"{ranking}")
    return scores


def check_error_text(fault: Fault, message: str) -> None:
    """Check the error for a request that was invalid on purpose: it must begin with the invalid input.

    Raises:
        WrongAnswerError: The error names another input, or none.
    """
    kind = "label|text" if fault.what == EMPTY_TEXT else "image"
    named = re.match(rf"(?:{kind}) {fault.index}\b", message)
    _require(named is not None, "error names another input", f"{fault} was answered with: {message}")


def _require(condition: bool, reason: str, detail: str) -> None:
    if not condition:
        raise WrongAnswerError(reason, detail[:500])
