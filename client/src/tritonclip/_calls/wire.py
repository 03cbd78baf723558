"""The server's contract: model names, tensor names and datatypes, and the questions that a server answers.

The server states the same contract in each model's `config.pbtxt`. Dimensions omit Triton's batch dimension:
a request is one request group, so every tensor has a batch dimension of 1 in front.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy.typing as npt

Tensors = dict[str, "npt.NDArray[Any]"]
"""The tensors of a request or a response, by name."""


@dataclass(frozen=True)
class Tensor:
    """A tensor's name, Triton datatype, and dimensions (-1: any length)."""

    name: str
    datatype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """A public model with its inputs and outputs."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class Answer(NamedTuple):
    """The result of an inference.

    Attributes:
        outputs: The output tensors by name.
        version: The version of the model that answered. Another version may be another checkpoint.
    """

    outputs: Tensors
    version: str


class Topic(enum.Enum):
    """The subject of a question, with the type of its answer."""

    SERVER_LIVE = "server live"  # bool
    SERVER_READY = "server ready"  # bool
    MODEL_READY = "model ready"  # bool
    MODEL_PARAMETERS = "model parameters"  # dict[str, str], from the model's configuration
    STATISTICS = (
        "statistics"  # list[dict[str, Any]] of every model, with the field names of Triton's HTTP API
    )


class Question(NamedTuple):
    """A request about the server's state, which is not an inference.

    Attributes:
        topic: The subject.
        model: The model it is about; None for the server itself.
    """

    topic: Topic
    model: Model | None = None


DEADLINE_MS = "deadline_ms"  # request parameter: milliseconds until the caller stops waiting
OLDER_TOKEN_LIMIT = 77  # assumed of servers from before the output token_limit

IMAGE = Tensor("image", "BYTES", (-1,))  # encoded image files
LABELS = Tensor("labels", "BYTES", (-1,))  # UTF-8
PIXEL_VALUES = Tensor("pixel_values", "UINT8", (-1, 3, -1, -1))  # resized and cropped, RGB
TEXT = Tensor("text", "BYTES", (-1,))  # UTF-8
SCORES = Tensor("scores", "FP32", (-1, -1))  # softmax over the labels
LOGITS = Tensor("logits", "FP32", (-1, -1))  # logit scale times cosine
TOKEN_COUNTS = Tensor("token_counts", "INT32", (-1,))  # before truncation, start and end included
TOKEN_LIMIT = Tensor("token_limit", "INT32", (1,))  # tokens of a text that the model reads
TIMINGS = Tensor("timings_us", "INT64", (5,))  # see codec.SERVER_PARTS
NEWER = (TOKEN_LIMIT, TIMINGS)  # not sent by older servers
IMAGE_EMBEDS = Tensor("image_embeds", "FP32", (-1, -1))  # unit L2 norm
TEXT_EMBEDS = Tensor("text_embeds", "FP32", (-1, -1))  # unit L2 norm

ZERO_SHOT = Model("clip_zero_shot", (IMAGE, LABELS), (SCORES, LOGITS, TOKEN_COUNTS, TOKEN_LIMIT, TIMINGS))
IMAGE_EMBEDDING = Model("clip_image_embedding", (IMAGE,), (IMAGE_EMBEDS, TIMINGS))
TEXT_EMBEDDING = Model("clip_text_embedding", (TEXT,), (TEXT_EMBEDS, TOKEN_COUNTS, TOKEN_LIMIT, TIMINGS))
PIXEL_EMBEDDING = Model("clip_pixel_embedding", (PIXEL_VALUES,), (IMAGE_EMBEDS, TIMINGS))

PUBLIC_MODELS = (ZERO_SHOT, IMAGE_EMBEDDING, TEXT_EMBEDDING, PIXEL_EMBEDDING)
