"""Valid requests to each model: the hostile ones are made from them, and they serve as controls."""

from __future__ import annotations

from functools import cache

import numpy as np

from tests.system.fuzz.hostile_images import seeds
from tests.system.fuzz.wire import Request, array_tensor, bytes_tensor

SIDE, DIM = 224, 512
"""Image side in pixels and embedding dimension of the demo checkpoint."""
LABELS = (b"a red circle", b"a blue square")


def healthy_image() -> bytes:
    """Return a valid image file."""
    return seeds()["PNG RGB"]


@cache
def healthy() -> dict[str, Request]:
    """Return one valid request to each model."""
    image, labels = bytes_tensor("image", [healthy_image()]), bytes_tensor("labels", LABELS)
    text = bytes_tensor("text", LABELS)
    pixels = array_tensor("pixel_values", np.full((1, 1, 3, SIDE, SIDE), 99, np.uint8))
    unit = np.eye(3, DIM, dtype=np.float32)[None]
    embeds = array_tensor("image_embeds", unit[:, :1]), array_tensor("text_embeds", unit)
    return {
        "clip_zero_shot": Request("clip_zero_shot", (image, labels)),
        "clip_image_embedding": Request("clip_image_embedding", (image,)),
        "clip_text_embedding": Request("clip_text_embedding", (text,)),
        "clip_pixel_embedding": Request("clip_pixel_embedding", (pixels,)),
        "image_preprocess": Request("image_preprocess", (image,)),
        "vision_encoder": Request("vision_encoder", (pixels,)),
        "text_encoder": Request("text_encoder", (text,)),
        "similarity": Request("similarity", embeds),
    }
