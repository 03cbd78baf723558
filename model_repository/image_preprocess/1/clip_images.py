"""Encoded images to pixel values in this process, bit for bit as transformers' PIL image processor.

The vision encoder normalises the pixels.
"""

from __future__ import annotations

import numpy as np

from clip_pillow import PillowDecoder


class ImageDecoder(PillowDecoder):
    """Decodes an image to an array."""

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
        image = self.fit(encoded)
        if out is None:
            out = np.empty((3, image.height, image.width), np.uint8)
        for plane, band in zip(out, image.split(), strict=True):
            plane[...] = np.asarray(band)
        return out
