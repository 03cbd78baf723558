"""Predictions for a data set: by a server through the client, and by transformers on a checkpoint.

Both embed the same files and the same prompts, average the templates of each label, and rank by cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers.image_utils import load_image

from tritonclip import Client, TritonClipError, ZeroShotClassifier
from tritonclip_server.repository.reference import CHUNK, Reference

REJECTED = -1
"""Index of the best label of an image that was rejected."""
Array = np.ndarray


@dataclass(frozen=True)
class Predictions:
    """Embeddings and scores of a data set.

    Attributes:
        image_embeds: float32 [images, dim], unit L2 norm; zeros for rejected images.
        text_embeds: float32 [labels, dim], unit L2 norm: the mean over the templates.
        scores: float32 [images, labels].
        rejected: Reason for each image that was rejected, by its index.
    """

    image_embeds: Array
    text_embeds: Array
    scores: Array
    rejected: dict[int, str] = field(default_factory=dict)

    @property
    def best_labels(self) -> Array:
        """Index of the best label of each image, or `REJECTED`."""
        best = self.scores.argmax(1)
        best[list(self.rejected)] = REJECTED
        return np.asarray(best)


def predict_with_transformers(
    reference: Reference,
    paths: Sequence[Path],
    labels: Sequence[str],
    templates: Sequence[str],
    on_progress: Callable[[int], None],
) -> Predictions:
    """Rank the labels for every file.

    Args:
        reference: Model, image processor and tokenizer.
        paths: Image files.
        labels: Candidate labels.
        templates: Hypothesis templates, averaged per label.
        on_progress: Called with the number of images that are done.
    """
    prompts = [template.format(label) for label in labels for template in templates]
    means = reference.embed_texts(prompts).reshape(len(labels), len(templates), -1).mean(axis=1)
    texts = means / np.linalg.norm(means, axis=1, keepdims=True)
    images, rejected = np.zeros((len(paths), texts.shape[1]), np.float32), dict[int, str]()
    for first in range(0, len(paths), CHUNK):
        indices = range(first, min(first + CHUNK, len(paths)))
        prepared = dict(_prepare(reference, paths, indices, rejected))
        if prepared:
            images[list(prepared)] = reference.embed_pixels(torch.cat(list(prepared.values())))
        on_progress(indices[-1] + 1)
    logits = reference.logit_scale * images @ texts.T
    return Predictions(images, texts, torch.from_numpy(logits).softmax(1).numpy(), rejected)


def predict_with_server(
    client: Client,
    paths: Sequence[Path],
    labels: Sequence[str],
    templates: Sequence[str],
    on_progress: Callable[[int], None],
) -> Predictions:
    """Rank the labels for every file on a server, with bulk calls.

    Args:
        client: Client of the server.
        paths: Image files.
        labels: Candidate labels.
        templates: Hypothesis templates, averaged per label.
        on_progress: Called with the number of images that are done.
    """
    classifier = ZeroShotClassifier(client, list(labels), templates=templates)
    images, rejected = np.zeros((len(paths), classifier.text_embeds.shape[1]), np.float32), dict[int, str]()
    answers = client.embed_images_many(
        paths, on_error="return", on_progress=lambda progress: on_progress(progress.done)
    )
    for index, answer in enumerate(answers):
        if isinstance(answer, TritonClipError):
            rejected[index] = answer.message
        else:
            images[index] = answer
    return Predictions(images, classifier.text_embeds, classifier.scores(images), rejected)


def _prepare(
    reference: Reference, paths: Sequence[Path], indices: Sequence[int], rejected: dict[int, str]
) -> Iterator[tuple[int, torch.Tensor]]:
    for index in indices:
        try:
            yield index, reference.pixel_values([load_image(str(paths[index]))])
        except Exception as error:  # Pillow's decoders raise errors of many kinds on damaged files
            rejected[index] = str(error)
