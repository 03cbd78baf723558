"""Thumbnails of images as JPEG, encoded from the pixels so that no metadata of a file leaks."""

from __future__ import annotations

import io
import warnings
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tritonclip._images.arrays import pil_from_array
from tritonclip._images.files import FORMAT_SUFFIXES
from tritonclip._images.sources import upright_rgb
from tritonclip.errors import InvalidInputError

QUALITY = 80
MAX_PIXELS = 100_000_000
MEDIA_TYPE = "image/jpeg"


def thumbnail_of_file(file: str | IO[bytes], side_px: int) -> bytes:
    """Return a JPEG thumbnail of an encoded image, upright, at most `side_px` wide and high.

    Args:
        file: Path of the image, or a binary file object.
        side_px: Longest side of the thumbnail in pixels.

    Raises:
        InvalidInputError: The content is not an image, or has more than `MAX_PIXELS` pixels.
    """
    try:
        with Image.open(file, formats=tuple(FORMAT_SUFFIXES)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InvalidInputError(
                    f"{image.width} x {image.height} pixels, over the limit of {MAX_PIXELS} pixels"
                )
            image.draft("RGB", (2 * side_px, 2 * side_px))  # decode a JPEG at reduced size
            return _encode(upright_rgb(image, "the image"), side_px)
    except InvalidInputError:
        raise
    except Exception as error:  # Pillow's decoders raise almost any exception on damaged files
        raise InvalidInputError("not an image that can be displayed") from error


def thumbnail_of_pixels(image: Image.Image | npt.NDArray[Any], side_px: int) -> bytes:
    """Return a JPEG thumbnail of a PIL image or an array; see `thumbnail_of_file`.

    Raises:
        InvalidInputError: PIL cannot decode the image, or the array is no image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about clipped values, which the call has given
        opened = pil_from_array(image, "the image") if isinstance(image, np.ndarray) else image
        return _encode(upright_rgb(opened, "the image"), side_px)


def _encode(small: Image.Image, side_px: int) -> bytes:
    small.thumbnail((side_px, side_px))
    small.info.clear()
    out = io.BytesIO()
    small.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
