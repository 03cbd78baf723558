"""Has the server make passes of every size, before its memory is watched.

In bfloat16 on a CPU, torch's oneDNN keeps something for every number of images that it has met in a pass, the
first two times. Under load the rarer sizes turn up late, and each looks like a leak then.
"""

from __future__ import annotations

import random

from tritonclip import Client

LARGEST_PASS = 64
"""Default of `max_bucket`, the largest pass of both encoders."""
ROUNDS = 3
TIMEOUT_S = 120.0


def meet_sizes(grpc_url: str, image: bytes, largest: int = LARGEST_PASS) -> None:
    """Sends requests of 1 to `largest` images and as many new texts, each size ROUNDS times, in no order.

    Args:
        grpc_url: Address, host:port.
        image: An encoded image.
        largest: See LARGEST_PASS.
    """
    sizes = ROUNDS * list(range(1, largest + 1))
    random.Random(0).shuffle(sizes)
    with Client(grpc_url, timeout_s=TIMEOUT_S) as client:
        for number, size in enumerate(sizes):
            client.embed_images(size * [image])
            client.embed_texts([f"text {place} of request {number}" for place in range(size)])
