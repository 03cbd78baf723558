"""Decode plain JPEGs with libjpeg-turbo by simplejpeg, to the same bytes as Pillow in less time."""

from __future__ import annotations

import threading

import numpy as np
import simplejpeg  # type: ignore[import-untyped,unused-ignore]

COLOUR_SPACES = ("Gray", "YCbCr")
"""Pillow decodes the other ones, of which some are inverted."""
KEPT_BYTES = 3 << 24
"""Size of the largest buffer that a thread keeps. A new one costs a page fault per 4 KiB."""


class JpegReader:
    """Decodes JPEGs; threads may share it."""

    def __init__(self) -> None:
        self._kept = threading.local()

    def read(self, encoded: bytes, least: tuple[int, int] = (0, 0)) -> np.ndarray | None:
        """Decode a JPEG.

        Args:
            encoded: The content of the file.
            least: Least (width, height) to decode at. libjpeg scales to the next greater number of eighths,
                or decodes at full size for (0, 0).

        Returns:
            uint8 [height, width, 3], valid until this thread reads the next one. None if the file is for
            Pillow to judge: it is damaged, or its colours are neither YCbCr nor grey.

        Raises:
            MemoryError: There is not enough memory.
        """
        scale = {"min_width": least[0], "min_height": least[1]}
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded, **scale)
            if colours not in COLOUR_SPACES:
                return None
            buffer = self._buffer(height * width * 3)
            rgb: np.ndarray = simplejpeg.decode_jpeg(encoded, "RGB", buffer=buffer, **scale)
        except ValueError:  # it also turns libjpeg's warnings into errors
            return None
        return rgb

    def _buffer(self, size: int) -> np.ndarray:
        kept: np.ndarray | None = getattr(self._kept, "buffer", None)
        if kept is not None and kept.size >= size:
            return kept
        new = np.empty(size, np.uint8)
        if size <= KEPT_BYTES:
            self._kept.buffer = new
        return new
