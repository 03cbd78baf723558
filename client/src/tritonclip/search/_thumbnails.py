"""Small pictures of indexed images, always drawn anew: what a file holds beside its pixels is left out."""

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
    """A JPEG of an image file; see `thumbnail_of`.

    Raises:
        InvalidInputError: If the file is gone, no image, or too large.
    """
    return thumbnail_of(read_image(path)[0])


def thumbnail_of(content: bytes) -> bytes:
    """A JPEG of an encoded image, upright, at most `SIDE_PX` wide and high.

    Raises:
        InvalidInputError: If it is no image, or too large.
    """
    try:
        with Image.open(io.BytesIO(content), formats=tuple(FORMAT_SUFFIXES)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InvalidInputError(f"{image.width} x {image.height} pixels are too many")
            image.draft("RGB", (2 * SIDE_PX, 2 * SIDE_PX))  # a JPEG need not be decoded at full size
            small = upright_rgb(image, "the image")
            small.thumbnail((SIDE_PX, SIDE_PX))
    except InvalidInputError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise InvalidInputError("no image that can be shown") from error
    small.info.clear()
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
