"""Choice of the decoder of each image, and limits on what is decoded at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np

from clip_base64 import decoded_text
from clip_geometry import ProcessorSettings
from clip_images import ImageDecoder
from clip_plain import plain_pixels
from clip_work import RequestWork
from clip_worker import WorkerOptions
from clip_worker_pool import WorkerPool

LARGE_PIXELS = 1 << 22
"""Larger images count against the pixels to decode at once."""
THREAD_PIXELS = 1 << 24
"""Pixels to decode at once, per thread; a single image may have more."""


class BoundedDecoder:
    """Decodes plain JPEGs and PNGs in this process, and all other files in worker processes.

    Args:
        options: Options of all decoders.
        threads: Threads that decode at once.
    """

    def __init__(self, options: WorkerOptions, threads: int) -> None:
        settings = ProcessorSettings.from_dict(options.settings)
        self._decoder = ImageDecoder(settings, options.formats, options.max_pixels, options.draft)
        self._max_pixels = options.max_pixels
        self._turns = _Turns(max(options.max_pixels, threads * THREAD_PIXELS))
        self._workers = WorkerPool(options, self._turns.hold)

    def close(self) -> None:
        """End the worker processes."""
        self._workers.close()

    def decode(self, encoded: bytes, out: np.ndarray | None, work: RequestWork) -> np.ndarray:
        """Decode, resize and crop an image.

        Args:
            encoded: The content of the file, or its base64 (see `clip_base64`).
            out: uint8 [3, height, width] to write to, or None.
            work: Work on its request.

        Returns:
            uint8 [3, height, width].

        Raises:
            ImageError: The file is not an image, damaged, too large, in a format that is not accepted, or
                costs too much.
            RequestError: The images of the request have too many pixels, or cost too much.
            RejectedError: The caller no longer waits.
            MemoryError: There is not enough memory.
        """
        pixels = plain_pixels(encoded)
        if pixels is None and encoded:
            if (file := decoded_text(encoded)) is not None:
                return self.decode(file, out, work)
            return self._workers.decode(encoded, work, lambda rgb: self._decoder.place(rgb, out))
        if not pixels or pixels > self._max_pixels:  # an error
            return self._decoder.decode(encoded, out)
        work.take_pixels(pixels)
        if pixels <= LARGE_PIXELS:
            return self._decoder.decode(encoded, out)
        with self._turns.hold(pixels):
            return self._decoder.decode(encoded, out)


class _Turns:
    """Limits the pixels of the large images that are decoded at once.

    Args:
        capacity: The limit. A single image may exceed it.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity, self._held = capacity, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until an image of so many pixels fits, and count it inside the `with` block."""
        if pixels <= LARGE_PIXELS:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + pixels <= self._capacity)
            self._held += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()
