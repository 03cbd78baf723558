"""Image inputs of every form, read, and encoded as files without loss.

Files, fetched URLs and bytes pass untouched: the server decodes them, orientation included. PIL images and
arrays are encoded as lossless WebP at its fastest setting, which takes about half the time of PNG at level 1
or less, is smaller, and is no slower to decode on the server. PNG steps in where WebP ends.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, features

from tritonclip._images.fetch import is_url
from tritonclip.errors import InvalidInputError

R = TypeVar("R")
Fetch = Callable[[str, str], bytes]
"""Gives the bytes behind a URL; the second argument is the image's place, as "image 3", for an error."""

FETCHES_AT_ONCE = 8
WEBP_MAX_SIDE_PX = 16383  # of the format: 14 bits a side


def encode_images(images: object, fetch: Fetch | None = None) -> tuple[list[bytes], bool]:
    """Encode one image, or a list or tuple of them.

    Args:
        images: One `ImageInput`, or a list or tuple of any number above 0 of them.
        fetch: Fetches the images given by URL; None refuses them.

    Returns:
        The encoded files in their order, and whether a single image was given.

    Raises:
        InvalidInputError: If there is no image, or one cannot be read; names its index.
    """
    several, single = as_images(images)
    return map_images(lambda image, index: encode_image(image, index, fetch), enumerate(several)), single


def encode_image(image: object, index: int, fetch: Fetch | None = None) -> bytes:
    """Encode one image; `index` is its place in the caller's list, for the error's text."""
    where = f"image {index}"
    source = read_source(image, where, fetch)
    return source if isinstance(source, bytes) else _encode_pil(source, where)


def map_images(function: Callable[[Any, int], R], images: Iterable[tuple[int, object]]) -> list[R]:
    """Call with each image and its index; where several are given by URL, with that many at the same time."""
    pairs = list(images)
    urls = sum(isinstance(image, str) and is_url(image) for _, image in pairs)
    if urls < 2:
        return [function(image, index) for index, image in pairs]
    with ThreadPoolExecutor(min(urls, FETCHES_AT_ONCE)) as pool:
        return list(pool.map(lambda pair: function(pair[1], pair[0]), pairs))


def as_images(images: object) -> tuple[Sequence[object], bool]:
    """The images as a sequence of at least one, and whether a single one was given."""
    if not isinstance(images, (list, tuple)):
        return [images], True
    if not images:
        raise InvalidInputError("images: the list is empty; give at least one image")
    return images, False


def read_source(image: object, where: str, fetch: Fetch | None) -> bytes | Image.Image:
    """An `ImageInput` as the bytes of an encoded file, or, if it is not encoded, as a PIL image."""
    if isinstance(image, str) and is_url(image):
        if fetch is None:
            raise InvalidInputError(
                f"{where}: {image[:60]!r} is not a file; fetch it yourself and pass its bytes"
            )
        return fetch(image, where)
    if isinstance(image, (str, os.PathLike)):
        return _read_file(image, where)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _not_empty(bytes(image), f"{where}: the bytes are empty")
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        return _pil_from_array(image, where)
    if callable(getattr(image, "read", None)):
        return _read_stream(image, where)
    raise InvalidInputError(
        f"{where}: expected a path, a URL, bytes, a binary file, a PIL image or a uint8 array, "
        f"got {type(image).__name__}; give several images as a list or tuple"
    )


def upright_rgb(image: Image.Image, where: str, *, in_place: bool = False) -> Image.Image:
    """An image as transformers' `load_image` sees it: EXIF orientation applied, then RGB.

    Args:
        image: Any PIL image, opened lazily or not.
        where: What it is, as "image 3", for the error's text.
        in_place: The image is not used again: spares copies of it.
    """
    if 0 in image.size:
        raise InvalidInputError(f"{where}: the image has no pixels, size {image.size}")
    try:
        if in_place:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
        else:
            image = ImageOps.exif_transpose(image)
        if isinstance(image.info.get("transparency"), bytes):
            del image.info["transparency"]  # a palette's alpha, which Pillow drops too, but warns
        return image if image.mode == "RGB" else image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise InvalidInputError(f"{where}: PIL cannot decode it: {error}") from error


def _not_empty(content: bytes, complaint: str) -> bytes:
    if not content:
        raise InvalidInputError(f"{complaint}; give the content of an image file")
    return content


def _read_file(path: str | os.PathLike[str], where: str) -> bytes:
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


def _read_stream(file: Any, where: str) -> bytes:
    """The rest of a binary file object, which stays open."""
    advice = "give a binary file, as open(path, 'rb') makes it"
    if isinstance(file, io.TextIOBase):
        raise InvalidInputError(f"{where}: the file is in text mode; {advice}")
    try:
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: a closed file
        raise InvalidInputError(f"{where}: cannot read the file object: {error}") from error
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise InvalidInputError(f"{where}: read() gave {type(content).__name__} instead of bytes; {advice}")
    return _not_empty(bytes(content), f"{where}: the file object is empty or at its end")


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
    rgb = upright_rgb(image, where)
    # Beside the pixels only a transparent colour counts: the server, as transformers does, makes it white.
    transparent = rgb.info.get("transparency")
    if isinstance(transparent, int):  # of a 1-bit PNG; PNG wants three, and Pillow takes one for red
        transparent = (transparent, 0, 0)
    rgb.info = {} if transparent is None else {"transparency": transparent}
    buffer = io.BytesIO()
    if transparent is None and max(rgb.size) <= WEBP_MAX_SIDE_PX and features.check("webp"):
        rgb.save(buffer, "WEBP", lossless=True, quality=0, method=0)
    else:
        rgb.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
