"""The two sides of `evaluate.py`: a served CLIP through the client, and transformers on its checkpoint.

Both embed the same files and the same prompts, average the templates of a label, and rank by cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.image_utils import load_image
from transformers.utils.logging import disable_progress_bar

from tritonclip import Client, TritonClipError, ZeroShotClassifier
from tritonclip_server.demo.evaluation import CHUNK, load

REFUSED = -1
"""In place of a label's index, for an image that was not taken."""
Array = np.ndarray


@dataclass(frozen=True)
class Side:
    """What one side says of a data set.

    Attributes:
        image_embeds: float32 [images, dim], unit L2 norm; zeros for those refused.
        text_embeds: float32 [labels, dim], unit L2 norm: the mean over the templates.
        scores: float32 [images, labels].
        refused: Why an image was not taken, by its place.
    """

    image_embeds: Array
    text_embeds: Array
    scores: Array
    refused: dict[int, str] = field(default_factory=dict)

    @property
    def guesses(self) -> Array:
        """The index of every image's best label; `REFUSED` where it was not taken."""
        best = self.scores.argmax(1)
        best[list(self.refused)] = REFUSED
        return np.asarray(best)


class Reference:
    """transformers in float32 on a checkpoint."""

    def __init__(self, checkpoint: Path) -> None:
        disable_progress_bar()
        self.model, self.processor = load(checkpoint)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Array:
        """Texts to float32 [n, dim], unit L2 norm."""
        parts = []
        for first in range(0, len(texts), CHUNK):
            coded = self.processor(
                text=list(texts[first : first + CHUNK]), padding=True, truncation=True, return_tensors="pt"
            )
            parts.append(self.model.get_text_features(**coded).pooler_output)
        return _unit(torch.cat(parts))

    @torch.inference_mode()
    def embed_pixels(self, pixels: Array) -> Array:
        """Prepared pixel values to float32 [n, dim], unit L2 norm."""
        return _unit(self.model.get_image_features(torch.from_numpy(pixels)).pooler_output)

    def pixel_values(self, path: Path, **options: bool) -> Array:
        """One file as the model wants it: float32 [3, h, w], normalised unless `options` say otherwise."""
        return np.asarray(self.processor.image_processor(load_image(str(path)), **options)["pixel_values"][0])

    def evaluate(
        self,
        paths: Sequence[Path],
        labels: Sequence[str],
        templates: Sequence[str],
        tell: Callable[[int], None],
    ) -> Side:
        """Ranks the labels for every file; `tell` is called with the number of images done."""
        prompts = [template.format(label) for label in labels for template in templates]
        means = self.embed_texts(prompts).reshape(len(labels), len(templates), -1).mean(axis=1)
        texts = means / np.linalg.norm(means, axis=1, keepdims=True)
        images, refused = np.zeros((len(paths), texts.shape[1]), np.float32), dict[int, str]()
        for chosen in _chunks(range(len(paths))):
            taken = dict(self._prepare(paths, chosen, refused))
            if taken:
                images[list(taken)] = self.embed_pixels(np.stack(list(taken.values())))
            tell(chosen[-1] + 1)
        logits = self.model.logit_scale.exp().item() * images @ texts.T
        return Side(images, texts, torch.from_numpy(logits).softmax(1).numpy(), refused)

    def _prepare(
        self, paths: Sequence[Path], chosen: Sequence[int], refused: dict[int, str]
    ) -> Iterator[tuple[int, Array]]:
        for index in chosen:
            try:
                yield index, self.pixel_values(paths[index])
            except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
                refused[index] = str(error)


def evaluate_server(
    client: Client,
    paths: Sequence[Path],
    labels: Sequence[str],
    templates: Sequence[str],
    tell: Callable[[int], None],
) -> Side:
    """Ranks the labels for every file on a server, in bulk."""
    classifier = ZeroShotClassifier(client, list(labels), templates=templates)
    images, refused = np.zeros((len(paths), classifier.text_embeds.shape[1]), np.float32), dict[int, str]()
    answers = client.embed_images_many(
        paths, on_error="return", on_progress=lambda progress: tell(progress.done)
    )
    for index, answer in enumerate(answers):
        if isinstance(answer, TritonClipError):
            refused[index] = answer.message
        else:
            images[index] = answer
    return Side(images, classifier.text_embeds, classifier.scores(images), refused)


def _chunks(numbers: range) -> Iterator[range]:
    return (numbers[first : first + CHUNK] for first in range(0, len(numbers), CHUNK))


def _unit(embeds: torch.Tensor) -> Any:
    return torch.nn.functional.normalize(embeds, dim=-1).numpy()
