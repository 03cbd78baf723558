"""Thumbnails of indexed images."""

from __future__ import annotations

import io

from tritonclip._images.thumbnails import MEDIA_TYPE as MEDIA_TYPE
from tritonclip._images.thumbnails import thumbnail_of_file
from tritonclip.search._sources import read_image

SIDE_PX = 256


def thumbnail(path: str) -> bytes:
    """Return a JPEG thumbnail of an image file; see `thumbnail_of`.

    Raises:
        InvalidInputError: The file is missing, not an image, or too large.
    """
    return thumbnail_of(read_image(path)[0])


def thumbnail_of(content: bytes) -> bytes:
    """Return a JPEG thumbnail of an encoded image, upright, at most `SIDE_PX` wide and high.

    Raises:
        InvalidInputError: The content is not an image, or has too many pixels.
    """
    return thumbnail_of_file(io.BytesIO(content), SIDE_PX)
