"""Encoded images to pixel values in this process, bit for bit as an image processor of transformers.

The vision encoder normalises the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from clip_geometry import TORCHVISION, UPRIGHT, Orientation, ProcessorSettings
from clip_pillow import PillowDecoder, check_size
from clip_plain import bare_jpeg_size

JPEG_START = b"\xff\xd8\xff"


class ImageDecoder(PillowDecoder):
    """Decodes an image to an array; see `PillowDecoder`."""

    def __init__(
        self, settings: ProcessorSettings, formats: Sequence[str], max_pixels: int, draft: float = 0
    ) -> None:
        super().__init__(settings, formats, max_pixels, draft)
        self._by_torch = settings.image_processor == TORCHVISION
        self._accepts_jpeg = "JPEG" in self._formats
        if self._by_torch:  # torch takes seconds to import
            from clip_jpeg import JpegReader
            from clip_torch import TorchResizer

            self._jpegs, self._resizer = JpegReader(), TorchResizer(settings)

    def decode(self, encoded: bytes, out: np.ndarray | None = None) -> np.ndarray:
        """Decode, resize and crop an image.

        Args:
            encoded: The content of the file.
            out: uint8 [3, height, width] to write to, of size `settings.output_size`, or None.

        Returns:
            uint8 [3, height, width].

        Raises:
            ImageError: The file is not an image, damaged, too large, or in a format that is not accepted.
            MemoryError: There is not enough memory.
        """
        if self._by_torch and encoded.startswith(JPEG_START):
            pixels = self._decode_jpeg(encoded, out)
            if pixels is not None:
                return pixels
        return self.place(self.fit(encoded), out)

    def place(self, image: Image.Image | np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """Do the steps after `finish`, on its image or on the pixels of it, uint8 [height, width, 3]."""
        if self._by_torch:
            return self._resizer.fit(np.array(image, copy=isinstance(image, Image.Image)), out=out)
        if out is None:
            return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
        bands = image.split() if isinstance(image, Image.Image) else image.transpose(2, 0, 1)
        for plane, band in zip(out, bands, strict=True):
            plane[...] = np.asarray(band)
        return out

    def _decode_jpeg(self, encoded: bytes, out: np.ndarray | None) -> np.ndarray | None:
        """Decode, resize and crop a plain JPEG, or return None if Pillow has to decode or judge it."""
        size, orientation = bare_jpeg_size(encoded) if self._accepts_jpeg else None, UPRIGHT
        if size is not None:  # Pillow's parser takes a twentieth of the time of a small photograph
            check_size(*size, self._settings, self._max_pixels)
        else:
            image = self.open(encoded)
            size = image.size
            try:
                orientation = Orientation.of(image)
            except MemoryError:
                raise
            except Exception:  # Pillow raises nearly anything on damaged Exif data
                return None
        least = self._least_size(*size, orientation) if self._draft_ratio else (0, 0)
        rgb = self._jpegs.read(encoded, least)
        if rgb is None:
            return None
        return self._resizer.fit(rgb, orientation, orientation.oriented(*size), out)
