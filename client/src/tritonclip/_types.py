"""The public value types: what goes into the clients and what comes out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, Union

import numpy as np
import numpy.typing as npt
from PIL import Image

#: One image: a path, the bytes of an encoded file, a PIL image, or uint8 pixels [h, w], [h, w, 3], [h, w, 4].
ImageInput = Union[
    str, "os.PathLike[str]", bytes, bytearray, memoryview, Image.Image, "npt.NDArray[np.uint8]"
]

#: The tensors of a request or an answer, by name.
Tensors = dict[str, "npt.NDArray[Any]"]


class Prediction(TypedDict):
    """One label of an image and its score, keys in the order of the transformers pipeline.

    Attributes:
        score: Softmax over the candidate labels, 0 to 1.
        label: The candidate label as it was given.
    """

    score: float
    label: str


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a server says of a model; embeddings may be compared where `sha256` is equal.

    Attributes:
        name: The model's name.
        checkpoint: Hub id or directory that its weights were prepared from.
        revision: The hub's commit, or "local".
        sha256: Of the weights, hexadecimal.
        random_weights: The weights are random numbers, for load tests.
        logit_scale: The multiplier from cosine to logit (about 100 for OpenAI's weights).
    """

    name: str
    checkpoint: str
    revision: str
    sha256: str
    random_weights: bool
    logit_scale: float


@dataclass(frozen=True, kw_only=True)
class Health:
    """The state of a server that answered.

    Attributes:
        live: The server runs.
        ready: The server accepts inference requests.
        models: For each public model, whether it is ready.
    """

    live: bool
    ready: bool
    models: Mapping[str, bool]

    @property
    def ok(self) -> bool:
        """Whether the server is live and ready, with every model."""
        return self.live and self.ready and all(self.models.values())
