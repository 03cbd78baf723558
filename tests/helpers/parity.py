"""Comparison of a server's scores and embeddings with the answers of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tests.helpers.reference import LABELS, TEXTS, ReferenceAnswers
from tritonclip import Client, Prediction

SCORE_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.01, "int8": 0.02}
LEAST_COSINE = {"float32": 0.99999, "bfloat16": 0.9999, "int8": 0.999}

Record = Callable[[str, object], None]
"""The fixture `record_property`."""


def scores_of(answers: Sequence[Sequence[Prediction]]) -> np.ndarray:
    """Return the scores of `classify` in the order of `LABELS`, float64 [n, m]."""
    return np.array(
        [[{each["label"]: each["score"] for each in one}[label] for label in LABELS] for one in answers]
    )


def assert_scores_equal(
    client: Client,
    images: Mapping[str, bytes],
    reference: ReferenceAnswers,
    tolerance: float,
    record: Record,
) -> None:
    """Compare the scores of images with those of the model, and record the largest difference."""
    worst = np.abs(scores_of(client.classify(list(images.values()), LABELS)) - reference.scores(images)).max()
    record("largest score error", float(worst))
    assert worst < tolerance


def assert_embeddings_equal(
    client: Client,
    images: Mapping[str, bytes],
    reference: ReferenceAnswers,
    least_cosine: float,
    record: Record,
) -> None:
    """Compare the embeddings of images and texts with those of the model, and record the least cosines."""
    found = {"image": client.embed_images(list(images.values())), "text": client.embed_texts(TEXTS)}
    expected = {"image": reference.image_embeds(images), "text": reference.text_embeds}
    for kind, ours in found.items():
        assert ours.shape == expected[kind].shape
        assert ours.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(ours, axis=-1), 1, atol=1e-5)
        cosine = (ours * expected[kind]).sum(axis=-1).min()
        record(f"least {kind} cosine", float(cosine))
        assert cosine >= least_cosine
