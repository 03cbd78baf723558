"""Rows of Spark to inputs of the client: which forms there are, and how each is read."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyspark.sql.types import BinaryType, DataType, StringType, StructType

from tritonclip._images.fetch import is_url
from tritonclip.errors import InvalidInputError, TritonClipError

Kind = Literal["image", "content", "path", "text"]
IMAGE_FIELDS = ("origin", "height", "width", "nChannels", "mode", "data")
CHANNELS = {0: 1, 16: 3, 24: 4}
"""Of OpenCV's CV_8UC1, CV_8UC3 and CV_8UC4, the modes that Spark's reader writes."""
_FILE = "file:"


class Item(NamedTuple):
    """A row's input.

    Attributes:
        value: What the client is to be sent; the error where it cannot be; None for a null row.
        source: Where it is from, to name it in an error; None where the row does not tell.
    """

    value: Any
    source: str | None = None

    @property
    def is_sent(self) -> bool:
        """Whether the server is asked for it."""
        return self.value is not None and not isinstance(self.value, TritonClipError)


def image_kind(data_type: DataType, column: str) -> Kind:
    """Which form the images of a column have, by its type.

    Raises:
        InvalidInputError: If it is none that images come in.
    """
    if isinstance(data_type, BinaryType):
        return "content"
    if isinstance(data_type, StringType):
        return "path"
    if isinstance(data_type, StructType) and set(IMAGE_FIELDS) <= set(data_type.names):
        return "image"
    raise InvalidInputError(
        f"inputCol {column!r} is of type {data_type.simpleString()}: expected binary (contents of files, as "
        "of spark.read.format('binaryFile')), string (paths or URLs), or the struct of "
        "spark.read.format('image')"
    )


def text_kind(data_type: DataType, column: str) -> Kind:
    """The form of a column of texts; raises InvalidInputError where it is no column of strings."""
    if isinstance(data_type, StringType):
        return "text"
    raise InvalidInputError(f"inputCol {column!r} is of type {data_type.simpleString()}: expected string")


def read_items(batches: Iterable[Any], kind: Kind) -> Iterator[Item]:
    """The rows of Arrow batches, one by one; structs come as DataFrames, all else as Series."""
    read = _READERS[kind]
    for batch in batches:
        yield from read(batch)


def _read_texts(batch: pd.Series[Any]) -> Iterator[Item]:
    return (Item(value if isinstance(value, str) else None) for value in batch)


def _read_contents(batch: pd.Series[Any]) -> Iterator[Item]:
    return (Item(None if value is None else bytes(value)) for value in batch)


def _read_paths(batch: pd.Series[Any]) -> Iterator[Item]:
    for value in batch:
        yield _from_path(value) if isinstance(value, str) else Item(None)


def _from_path(path: str) -> Item:
    """A path or URL; Spark's own spelling of local files, `file:/a` or `file:///a%20b`, is understood."""
    scheme = urllib.parse.urlsplit(path).scheme if "://" in path else ""
    if path.startswith(_FILE):
        local = path.removeprefix(_FILE)
        local = local.removeprefix("//") if local.startswith("///") else local
        return Item(local if os.path.exists(local) else urllib.parse.unquote(local), path)
    if is_url(path) or not scheme:
        return Item(path, path[:200])
    error = InvalidInputError(
        f"paths that begin with {scheme}:// are Spark's to read; take the column content of "
        "spark.read.format('binaryFile')"
    )
    return Item(error, path)


def _read_structs(batch: pd.DataFrame) -> Iterator[Item]:
    for origin, *fields in zip(*(batch[name] for name in IMAGE_FIELDS), strict=True):
        source = origin if isinstance(origin, str) else None
        if fields[-1] is None and pd.isna(fields[0]):
            yield Item(None, source)
            continue
        try:
            yield Item(to_pixels(*fields), source)
        except InvalidInputError as error:
            yield Item(error, source)


def to_pixels(height: Any, width: Any, channels: Any, mode: Any, data: Any) -> npt.NDArray[np.uint8]:
    """The pixels of Spark's image struct.

    Args:
        height: In pixels.
        width: In pixels.
        channels: 1, 3 or 4.
        mode: The number that OpenCV gives to the type of the pixels.
        data: Rows from the top, a pixel's channels side by side: grey, BGR or BGRA, a byte each.

    Returns:
        uint8 [h, w] grey, [h, w, 3] RGB or [h, w, 4] RGBA, as the client takes them.

    Raises:
        InvalidInputError: If Spark could not decode the image, or the fields do not fit each other.
    """
    if data is None or any(pd.isna(field) for field in (height, width, channels, mode)):
        raise InvalidInputError(
            "image: a field of the image struct is null; give all of them, or a null image"
        )
    height, width, channels, mode = int(height), int(width), int(channels), int(mode)
    if height < 1 or width < 1:
        raise InvalidInputError(
            "image: Spark could not decode it; have the server decode it by spark.read.format('binaryFile')"
        )
    if CHANNELS.get(mode) != channels:
        raise InvalidInputError(
            f"image: mode {mode} with {channels} channels; expected mode 0 with 1, 16 with 3, or 24 with 4"
        )
    pixels = np.frombuffer(data, np.uint8)
    if pixels.size != height * width * channels:
        raise InvalidInputError(
            f"image: {pixels.size} bytes of data; {height} x {width} pixels of {channels} channels have "
            f"{height * width * channels}"
        )
    if channels == 1:
        return pixels.reshape(height, width)
    shaped = pixels.reshape(height, width, channels)
    return shaped[..., [2, 1, 0, 3][:channels]]


_READERS: dict[Kind, Callable[[Any], Iterator[Item]]] = {
    "image": _read_structs,
    "content": _read_contents,
    "path": _read_paths,
    "text": _read_texts,
}
