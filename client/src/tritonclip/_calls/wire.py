"""Model names, tensor names and datatypes: the client's one statement of the server's contract.

The server states the same in each model's `config.pbtxt`. Dimensions are without Triton's batch dimension:
one request is one request group, a batch of 1 in front of them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tensor:
    """A tensor's name, Triton datatype, and dims (-1: any length)."""

    name: str
    datatype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """A public model with its inputs and outputs."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


DEADLINE_MS = "deadline_ms"  # request parameter: milliseconds that the caller still waits
MAX_TOKENS = 77  # of a text, start and end included; every CLIP's text tower has so many positions

IMAGE = Tensor("image", "BYTES", (-1,))  # encoded image files
LABELS = Tensor("labels", "BYTES", (-1,))  # UTF-8
PIXEL_VALUES = Tensor("pixel_values", "UINT8", (-1, 3, -1, -1))  # resized and cropped, RGB
TEXT = Tensor("text", "BYTES", (-1,))  # UTF-8
SCORES = Tensor("scores", "FP32", (-1, -1))  # softmax over the labels
LOGITS = Tensor("logits", "FP32", (-1, -1))  # logit scale times cosine
TOKEN_COUNTS = Tensor("token_counts", "INT32", (-1,))  # before truncation
IMAGE_EMBEDS = Tensor("image_embeds", "FP32", (-1, -1))  # unit L2 norm
TEXT_EMBEDS = Tensor("text_embeds", "FP32", (-1, -1))  # unit L2 norm

ZERO_SHOT = Model("clip_zero_shot", (IMAGE, LABELS), (SCORES, LOGITS, TOKEN_COUNTS))
IMAGE_EMBEDDING = Model("clip_image_embedding", (IMAGE,), (IMAGE_EMBEDS,))
TEXT_EMBEDDING = Model("clip_text_embedding", (TEXT,), (TEXT_EMBEDS, TOKEN_COUNTS))
PIXEL_EMBEDDING = Model("clip_pixel_embedding", (PIXEL_VALUES,), (IMAGE_EMBEDS,))

PUBLIC_MODELS = (ZERO_SHOT, IMAGE_EMBEDDING, TEXT_EMBEDDING, PIXEL_EMBEDDING)
