"""Reading of image inputs of every kind, and lossless encoding of those that are not encoded yet.

Files, fetched URLs and bytes are sent unchanged; the server decodes them and applies their orientation. PIL
images and arrays are encoded as lossless WebP at its fastest setting. That takes at most half the time of PNG
at level 1, is smaller, and is no slower to decode on the server. PNG is used if WebP cannot hold the image.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps, features

from tritonclip._images.arrays import pil_from_array, warn_if_clipped
from tritonclip._images.urls import FETCH_IT_YOURSELF, is_url
from tritonclip._messages.callers import from_here
from tritonclip._messages.text import shown
from tritonclip._process.workers import Workers
from tritonclip.errors import InvalidInputError

R = TypeVar("R")
Fetch = Callable[[str, str], bytes]
"""Returns the content of a URL; the second argument is the image's name in error texts, such as "image 3"."""

MAX_CONCURRENT_FETCHES = 8
MAX_FILE_BYTES = 2**31  # no request can be larger
PIPE_BLOCK_BYTES = 1 << 20
MAX_SHOWN_PATH_CHARS = 200
WEBP_MAX_SIDE_PX = 16383  # 14 bits per side


def encode_images(images: Sequence[object], fetch: Fetch | None = None) -> list[bytes]:
    """Encode several images; URLs are fetched concurrently.

    Args:
        images: The `ImageInput` values.
        fetch: Fetches images given by URL; None rejects them.

    Raises:
        InvalidInputError: An image cannot be read; the text names its index.
    """
    if fetch is None:
        return [encode_image(image, index) for index, image in enumerate(images)]
    return map_images(partial(encode_image, fetch=fetch), enumerate(images))


def encode_image(image: object, index: int, fetch: Fetch | None = None) -> bytes:
    """Encode one image; `index` is its index in the caller's list, for error texts."""
    name = f"image {index}"
    source = read_source(image, name, fetch)
    return source if isinstance(source, bytes) else _encode_pil(source, name)


def map_images(function: Callable[[Any, int], R], images: Iterable[tuple[int, object]]) -> list[R]:
    """Call a function with each image and its index; concurrently if several are given by URL."""
    pairs = list(images)
    urls = sum(isinstance(image, str) and is_url(image) for _, image in pairs)
    if urls < 2:
        return [function(image, index) for index, image in pairs]

    def call(pair: tuple[int, object]) -> R:
        return function(pair[1], pair[0])

    with Workers(from_here(call), min(urls, MAX_CONCURRENT_FETCHES)) as workers:
        for pair in pairs:
            workers.submit(pair)
        return [workers.take_next() for _ in pairs]


def as_images(images: object) -> tuple[Sequence[object], bool]:
    """Return the images as a non-empty sequence, and True if a single image was given."""
    if not isinstance(images, (list, tuple)):
        return [images], True
    if not images:
        raise InvalidInputError("images: the list is empty; give at least one image")
    return images, False


def read_source(image: object, name: str, fetch: Fetch | None) -> bytes | Image.Image:
    """Read an `ImageInput`: the bytes of an encoded file, or a PIL image if it is not encoded."""
    if isinstance(image, str) and is_url(image):
        if fetch is None:
            raise InvalidInputError(
                f"{name}: {shown(image, 60)} is not a file; {FETCH_IT_YOURSELF.removeprefix('or ')}"
            )
        return fetch(image, name)
    if isinstance(image, (str, os.PathLike)):
        return _read_file(image, name)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _not_empty(bytes(image), f"{name}: the bytes are empty")
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        return pil_from_array(image, name)
    if callable(getattr(image, "read", None)):
        return _read_stream(image, name)
    advice = "give several images as a list or tuple"
    if hasattr(image, "__array__"):  # a tensor
        advice = "give it as np.asarray(image), with the channels last"
    raise InvalidInputError(
        f"{name}: expected a path, a URL, bytes, a binary file, a PIL image or an array, "
        f"got {type(image).__name__}; {advice}"
    )


def upright_rgb(image: Image.Image, name: str, *, in_place: bool = False) -> Image.Image:
    """Apply the EXIF orientation and convert to RGB, as transformers' `load_image` does.

    Args:
        image: Any PIL image, loaded or not.
        name: The image's name in error texts, such as "image 3".
        in_place: True if the image is not used again, which saves copies of it.
    """
    if 0 in image.size:
        raise InvalidInputError(f"{name}: the image has no pixels, size {image.size}")
    try:
        if in_place:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
        else:
            image = ImageOps.exif_transpose(image)
        if isinstance(image.info.get("transparency"), bytes):
            del image.info["transparency"]  # a palette's alpha, which Pillow drops with a warning
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise InvalidInputError(f"{name}: PIL cannot decode it: {error}") from error
    if not in_place and image.mode[0] in "IF":  # the caller's image, one channel of more than 8 bits
        warn_if_clipped(image, name)
    return rgb


def _not_empty(content: bytes, complaint: str) -> bytes:
    if not content:
        raise InvalidInputError(f"{complaint}; give the content of an image file")
    return content


def _read_file(path: str | os.PathLike[str], name: str) -> bytes:
    try:
        with open(path, "rb", buffering=0, opener=open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                content = _read_pipe(file, status, f"{name}: {_quoted(path)}")
            elif status.st_size <= MAX_FILE_BYTES:
                content = file.read()
            else:
                raise InvalidInputError(
                    f"{name}: the file {_quoted(path)} has {status.st_size} bytes, over the limit of "
                    f"{MAX_FILE_BYTES}; make the image smaller"
                )
    except InvalidInputError:
        raise
    except FileNotFoundError as error:
        place = "" if os.path.isabs(path) else f", which is relative to {_quoted(os.getcwd())}"
        raise InvalidInputError(f"{name}: no such file: {_quoted(path)}; check the path{place}") from error
    except IsADirectoryError as error:
        raise InvalidInputError(
            f"{name}: {_quoted(path)} is a directory; give the image files in it"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidInputError(
            f"{name}: cannot read {_quoted(path)}: {reason}; make it readable, or leave it out"
        ) from error
    return content or _not_empty(content, f"{name}: the file {_quoted(path)} is empty")


def _quoted(path: str | os.PathLike[str]) -> str:
    return shown(os.fspath(path), MAX_SHOWN_PATH_CHARS)


def open_without_waiting(path: str, flags: int) -> int:
    """Open a file as an `opener` of `open`; a pipe that nobody writes to is empty instead of waited for."""
    if not hasattr(os, "O_NONBLOCK"):  # Windows, which has no pipes among its files
        return os.open(path, flags)
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor


def _read_pipe(file: io.FileIO, status: os.stat_result, name: str) -> bytes:
    """Read a pipe to its end, such as that of a shell's `<(command)`."""
    if not stat.S_ISFIFO(status.st_mode):
        raise InvalidInputError(f"{name} is a device; give an image file")
    content = bytearray()
    while block := file.read(PIPE_BLOCK_BYTES):
        content += block
        if len(content) > MAX_FILE_BYTES:
            raise InvalidInputError(f"{name} is a pipe with over {MAX_FILE_BYTES} bytes; give an image file")
    return bytes(content)


def _read_stream(file: Any, name: str) -> bytes:
    """Read the rest of a binary file object, which stays open."""
    advice = "give a binary file, such as open(path, 'rb')"
    if isinstance(file, io.TextIOBase):
        raise InvalidInputError(f"{name}: the file is in text mode; {advice}")
    try:
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: a closed file
        raise InvalidInputError(f"{name}: cannot read the file object: {error}") from error
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise InvalidInputError(
            f"{name}: read() returned {type(content).__name__} instead of bytes; {advice}"
        )
    return _not_empty(bytes(content), f"{name}: the file object is empty or at its end")


def _encode_pil(image: Image.Image, name: str) -> bytes:
    rgb = upright_rgb(image, name)
    # Apart from the pixels only a transparent colour matters: like transformers, the server makes it white.
    transparent = rgb.info.get("transparency")
    if isinstance(transparent, int):  # of a 1-bit PNG; PNG needs three values, and Pillow reads one as red
        transparent = (transparent, 0, 0)
    rgb.info = {} if transparent is None else {"transparency": transparent}
    buffer = io.BytesIO()
    if transparent is None and max(rgb.size) <= WEBP_MAX_SIDE_PX and features.check("webp"):
        rgb.save(buffer, "WEBP", lossless=True, quality=0, method=0)
    else:
        rgb.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
