"""Requests whose files worker processes decode, taken out of their batches.

A file that takes half a second would otherwise delay all requests of its dynamic batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from clip_common.groups import Elements, Outcome
from clip_plain import plain_pixels

REQUESTS_PER_THREAD = 2
"""Deferred requests per decoding thread. Each keeps its files in shared memory until it is answered."""


def is_plain(group: Elements) -> bool:
    """Return whether no image of a request needs a worker process."""
    return all(not file or plain_pixels(file) is not None for file in group.items)


class DeferredRequests:
    """Decodes requests next to the batches, a limited number at once.

    Args:
        decode: Decodes the images of a request. It raises nothing.
        max_requests: Limit on the requests.
        max_images: Limit on their images, over all requests.
    """

    def __init__(self, decode: Callable[[Elements], Outcome], max_requests: int, max_images: int) -> None:
        self._decode, self._max_requests, self._max_images = decode, max_requests, max_images
        self._lock = threading.Lock()
        self._requests = self._images = 0
        self._pool = ThreadPoolExecutor(max_requests, thread_name_prefix="deferred")

    def close(self) -> None:
        """Answer all deferred requests, and stop the threads."""
        self._pool.shutdown()

    def defer(self, group: Elements, respond: Callable[[], Callable[[Outcome], None]]) -> bool:
        """Decode a request and respond to it from another thread, unless there are too many already.

        Args:
            group: Its images.
            respond: Takes the request out of its batch, and returns the function that responds to it. It is
                called only if the request is deferred.

        Returns:
            Whether the request is deferred.
        """
        with self._lock:
            if self._requests == self._max_requests or self._images + group.size > self._max_images:
                return False
            self._requests, self._images = self._requests + 1, self._images + group.size
        self._pool.submit(self._answer, group, respond())
        return True

    def _answer(self, group: Elements, respond: Callable[[Outcome], None]) -> None:
        outcome = self._decode(group)
        with self._lock:
            self._requests, self._images = self._requests - 1, self._images - group.size
        respond(outcome)
