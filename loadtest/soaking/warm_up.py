"""Run batches of every size before the soak samples memory.

In bfloat16 on a CPU, torch's oneDNN keeps memory for each batch size, on the first two batches of that size.
Under load the rare sizes appear late, and each would look like a leak.
"""

from __future__ import annotations

import random

from tritonclip import Client

LARGEST_BATCH = 64
"""Default of `max_bucket`, the largest batch of both encoders."""
ROUNDS = 3
TIMEOUT_S = 120.0


def warm_up_batch_sizes(grpc_url: str, image: bytes, largest: int = LARGEST_BATCH) -> None:
    """Send requests with 1 to `largest` images and as many new texts, each size ROUNDS times, shuffled.

    Args:
        grpc_url: Address, host:port.
        image: An encoded image.
        largest: Largest batch size.
    """
    sizes = ROUNDS * list(range(1, largest + 1))
    random.Random(0).shuffle(sizes)
    with Client(grpc_url, timeout_s=TIMEOUT_S) as client:
        for number, size in enumerate(sizes):
            client.embed_images(size * [image])
            client.embed_texts([f"text {index} of request {number}" for index in range(size)])
