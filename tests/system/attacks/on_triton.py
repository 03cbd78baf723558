"""Small requests to Triton's gRPC port that are expensive if the server does not bound their work."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.system.fuzz.healthy_requests import healthy, healthy_image
from tests.system.fuzz.senders import GrpcSender
from tests.system.fuzz.wire import Reply, Request, array_tensor, bytes_tensor

TEXTS = 10_000
ROWS = 15_500
DIGITS_BYTES = 8 << 20
Attack = Callable[[GrpcSender], list[Reply]]


def many_texts(sender: GrpcSender) -> list[Reply]:
    """Send texts as long as the model reads, none of which is cached."""
    words = np.random.default_rng(0).integers(0, 10_000, (TEXTS, 30))
    texts = [" ".join(map(str, row)).encode()[:154] for row in words]
    return sender.send([Request("clip_text_embedding", (bytes_tensor("text", texts),))])


def long_text(sender: GrpcSender) -> list[Reply]:
    """Send one text of 8 MiB of digits."""
    digits = np.random.default_rng(0).integers(ord("0"), ord("9") + 1, DIGITS_BYTES, np.uint8)
    return sender.send([Request("clip_text_embedding", (bytes_tensor("text", [digits.tobytes()]),))])


def huge_similarity(sender: GrpcSender) -> list[Reply]:
    """Compare embeddings of one number each: 62 kB in, 961 MB out, twice at once."""
    rows = np.ones((1, ROWS, 1), np.float32)
    tensors = array_tensor("image_embeds", rows), array_tensor("text_embeds", rows)
    request = Request("similarity", tensors)
    return sender.send([request, request])


def forged_times(sender: GrpcSender) -> list[Reply]:
    """Send times of a request that has waited for an hour, as only an ensemble would know them."""
    replies = []
    for model in ("image_preprocess", "text_encoder", "vision_encoder", "similarity"):
        for times in ([1] * 6, [2**62] * 6, [-(2**62)] * 6):
            forged = array_tensor("times", np.array([times], np.int64))
            request = healthy()[model]
            replies += sender.send([Request(model, (*request.tensors, forged))] * 8)
    return replies


def image(data: bytes, count: int = 1) -> Attack:
    """Return an attack that sends one image `count` times in one request."""

    def send(sender: GrpcSender) -> list[Reply]:
        return sender.send([Request("clip_image_embedding", (bytes_tensor("image", [data] * count),))])

    return send


def honest_batch(sender: GrpcSender) -> list[Reply]:
    """Send 64 honest images in one request, which an attack must not make impossible."""
    images = bytes_tensor("image", [healthy_image()] * 64)
    return sender.send([Request("clip_image_embedding", (images,))])
