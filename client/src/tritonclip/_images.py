"""Image inputs to the bytes of encoded files, without loss.

Files and bytes pass untouched: the server decodes them, orientation included. PIL images and arrays are
encoded as lossless WebP at its fastest setting, which takes about half the time of PNG at level 1 or less, is
smaller, and is no slower to decode on the server. PNG steps in where WebP ends.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, features

from tritonclip.errors import InvalidInputError

WEBP_MAX_SIDE_PX = 16383  # of the format: 14 bits a side


def encode_images(images: object) -> tuple[list[bytes], bool]:
    """Encode one image, or a list or tuple of them.

    Args:
        images: One `ImageInput`, or a list or tuple of any number above 0 of them.

    Returns:
        The encoded files in their order, and whether a single image was given.

    Raises:
        InvalidInputError: If there is no image, or one cannot be read; names its index.
    """
    if not isinstance(images, (list, tuple)):
        return [encode_image(images, 0)], True
    if not images:
        raise InvalidInputError("images: the list is empty; give at least one image")
    return [encode_image(image, index) for index, image in enumerate(images)], False


def encode_image(image: object, index: int) -> bytes:
    """Encode one image; `index` is its place in the caller's list, for the error's text."""
    where = f"image {index}"
    if isinstance(image, (str, os.PathLike)):
        return _read_file(image, where)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _not_empty(bytes(image), f"{where}: the bytes are empty")
    if isinstance(image, Image.Image):
        return _encode_pil(image, where)
    if isinstance(image, np.ndarray):
        return _encode_pil(_pil_from_array(image, where), where)
    raise InvalidInputError(
        f"{where}: expected a path, bytes, a PIL image or a uint8 array, got {type(image).__name__}; "
        "give several images as a list or tuple"
    )


def _not_empty(content: bytes, complaint: str) -> bytes:
    if not content:
        raise InvalidInputError(f"{complaint}; give the content of an image file")
    return content


def _read_file(path: str | os.PathLike[str], where: str) -> bytes:
    if isinstance(path, str) and path.startswith(("http://", "https://", "data:")):
        raise InvalidInputError(f"{where}: {path[:60]!r} is not a file; fetch it yourself and pass its bytes")
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InvalidInputError(f"{where}: no such file: {os.fspath(path)!r}") from error
    except IsADirectoryError as error:
        raise InvalidInputError(
            f"{where}: {os.fspath(path)!r} is a directory; give the image files in it"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InvalidInputError(f"{where}: cannot read {os.fspath(path)!r}: {error}") from error
    return _not_empty(content, f"{where}: the file {os.fspath(path)!r} is empty")


def _pil_from_array(array: npt.NDArray[Any], where: str) -> Image.Image:
    """uint8 [h, w], [h, w, 3] or [h, w, 4] to a PIL image of the same pixels."""
    if array.dtype != np.uint8:
        hint = (
            "scale it to 0..255 and use .round().astype(np.uint8)"
            if array.dtype.kind == "f"
            else "use .astype(np.uint8)"
        )
        raise InvalidInputError(f"{where}: expected a uint8 array, got {array.dtype}; {hint}")
    if array.ndim == 4:
        raise InvalidInputError(f"{where}: got a batch of shape {array.shape}; pass list(array)")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        hint = "; move the channels last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise InvalidInputError(
            f"{where}: expected an array of shape [h, w], [h, w, 3] or [h, w, 4], got {array.shape}{hint}"
        )
    if array.size == 0:
        raise InvalidInputError(f"{where}: the array has no pixels, shape {array.shape}")
    return Image.fromarray(np.ascontiguousarray(array))


def _encode_pil(image: Image.Image, where: str) -> bytes:
    """Encode a PIL image as transformers' `load_image` sees it: EXIF orientation applied, then RGB."""
    if 0 in image.size:
        raise InvalidInputError(f"{where}: the image has no pixels, size {image.size}")
    try:
        rgb = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # a lazily opened file that turns out broken
        raise InvalidInputError(f"{where}: PIL cannot decode it: {error}") from error
    # Beside the pixels only a transparent colour counts: the server, as transformers does, makes it white.
    transparent = rgb.info.get("transparency")
    rgb.info = {} if transparent is None else {"transparency": transparent}
    buffer = io.BytesIO()
    if transparent is None and max(rgb.size) <= WEBP_MAX_SIDE_PX and features.check("webp"):
        rgb.save(buffer, "WEBP", lossless=True, quality=0, method=0)
    else:
        rgb.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
