"""Whether answers are right: in form, and the same as the first answer to the same question. Pure.

An answer that was mixed up with another caller's is well formed, so the first answers are kept for each
picture with its labels and for each text. The numbers may differ a little with what else is in a dynamic
batch: README.md says what was measured.
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
    """The server answered, and wrongly.

    Attributes:
        reason: The kind of wrong, one of few, to count by.
        detail: What was asked and what came.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class FirstAnswers:
    """The first answers, and the comparison of later ones; bounded, as pictures and label sets are.

    Args:
        score_tolerance: Largest difference of one score.
        cosine_tolerance: Largest 1 - cosine of embeddings.
    """

    def __init__(self, score_tolerance: float, cosine_tolerance: float) -> None:
        self._score_tolerance = score_tolerance
        self._cosine_tolerance = cosine_tolerance
        self._kept: dict[Hashable, Array] = {}

    def check(self, job: Job, answer: Any) -> None:
        """Check the answer to a good job.

        Args:
            job: What was asked.
            answer: For `classify` a list of predictions for each image, else embeddings [n, d].

        Raises:
            WrongAnswerError: If it is malformed, or not the answer that the same question had before.
        """
        if job.kind == "classify":
            self._check_scores(job, answer)
        elif job.kind == "embed_images":
            self._check_embeddings([("image", image) for image in job.images], answer)
        else:
            self._check_embeddings([("text", text) for text in job.texts], answer)

    def _check_scores(self, job: Job, rankings: Sequence[Sequence[Any]]) -> None:
        _demand(len(rankings) == len(job.images), "wrong shape", f"{len(rankings)} rankings for {job}")
        for image, ranking in zip(job.images, rankings, strict=True):
            scores = scores_of(ranking, job.texts)
            kept = self._kept.setdefault((image, job.texts), scores)
            difference = float(np.abs(scores - kept).max())
            _demand(
                difference <= self._score_tolerance,
                "another answer than before",
                f"scores of picture {image} differ by {difference:.4f} for {job.texts}",
            )

    def _check_embeddings(self, keys: Sequence[Hashable], embeds: Array) -> None:
        _demand(embeds.ndim == 2 and len(embeds) == len(keys), "wrong shape", f"{embeds.shape} for {keys}")
        _demand(bool(np.isfinite(embeds).all()), "not finite", f"embeddings of {keys}")
        norms = np.linalg.norm(embeds, axis=1)
        _demand(bool((np.abs(norms - 1) <= NORM_TOLERANCE).all()), "not of unit norm", f"{norms} for {keys}")
        for key, embed in zip(keys, embeds, strict=True):
            kept = self._kept.setdefault(key, embed.copy())
            _demand(kept.shape == embed.shape, "wrong shape", f"{embed.shape}, before {kept.shape}")
            distance = 1 - float(kept @ embed)
            _demand(
                distance <= self._cosine_tolerance,
                "another answer than before",
                f"1 - cosine is {distance:.6f} for {key}",
            )


def scores_of(ranking: Sequence[Any], labels: Sequence[str]) -> Array:
    """A ranking's scores in the labels' order, float32 [m].

    Raises:
        WrongAnswerError: If the labels are others, or the scores no distribution, or not in order.
    """
    found = {entry["label"]: entry["score"] for entry in ranking}
    _demand(len(ranking) == len(labels) and found.keys() == set(labels), "other labels", f"{ranking}")
    scores = np.array([found[label] for label in labels], dtype=np.float32)
    _demand(bool(np.isfinite(scores).all()), "not finite", f"{ranking}")
    _demand(bool((scores >= 0).all()) and abs(scores.sum() - 1) <= SUM_TOLERANCE, "sum not 1", f"{ranking}")
    falling = [entry["score"] for entry in ranking]
    _demand(falling == sorted(falling, reverse=True), "not in order", f"{ranking}")
    return scores


def check_refusal(fault: Fault, message: str) -> None:
    """Check the text that refuses a request that was wrong on purpose: it must begin with the wrong input.

    Raises:
        WrongAnswerError: If it names another input, or none.
    """
    kind = "label|text" if fault.what == EMPTY_TEXT else "image"
    named = re.match(rf"(?:{kind}) {fault.index}\b", message)
    _demand(named is not None, "refusal names another input", f"{fault} was answered with: {message}")


def _demand(holds: bool, reason: str, detail: str) -> None:
    if not holds:
        raise WrongAnswerError(reason, detail[:500])
