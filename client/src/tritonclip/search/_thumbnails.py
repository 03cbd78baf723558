"""Thumbnails of indexed images, re-encoded from the pixels so that no metadata of the file leaks."""

from __future__ import annotations

import io

from PIL import Image

from tritonclip._images.files import FORMAT_SUFFIXES
from tritonclip._images.sources import upright_rgb
from tritonclip.errors import InvalidInputError
from tritonclip.search._sources import read_image

SIDE_PX = 256
QUALITY = 80
MAX_PIXELS = 100_000_000
MEDIA_TYPE = "image/jpeg"


def thumbnail(path: str) -> bytes:
    """Return a JPEG thumbnail of an image file; see `thumbnail_of`.

    Raises:
        InvalidInputError: The file is missing, not an image, or too large.
    """
    return thumbnail_of(read_image(path)[0])


def thumbnail_of(content: bytes) -> bytes:
    """Return a JPEG thumbnail of an encoded image, upright, at most `SIDE_PX` wide and high.

    Raises:
        InvalidInputError: The content is not an image, or has more than `MAX_PIXELS` pixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=tuple(FORMAT_SUFFIXES)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InvalidInputError(
                    f"{image.width} x {image.height} pixels, over the limit of {MAX_PIXELS} pixels"
                )
            image.draft("RGB", (2 * SIDE_PX, 2 * SIDE_PX))  # decode a JPEG at reduced size
            small = upright_rgb(image, "the image")
            small.thumbnail((SIDE_PX, SIDE_PX))
    except InvalidInputError:
        raise
    except Exception as error:  # Pillow's decoders raise almost any exception on damaged files
        raise InvalidInputError("not an image that can be displayed") from error
    small.info.clear()
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
