"""Conversion of Spark rows to inputs of the client."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyspark.sql.types import BinaryType, DataType, StringType, StructType

from tritonclip._images.urls import is_url
from tritonclip.errors import InvalidInputError, TritonClipError

InputForm = Literal["image", "content", "path", "text"]
"""Form of an input column: image structs, file contents, paths or URLs, or texts."""
IMAGE_FIELDS = ("origin", "height", "width", "nChannels", "mode", "data")
CHANNELS_BY_MODE = {0: 1, 16: 3, 24: 4}
"""Channels of the OpenCV types CV_8UC1, CV_8UC3 and CV_8UC4, which Spark's image reader writes."""
_FILE_SCHEME = "file:"


class RowInput(NamedTuple):
    """Input of one row.

    Attributes:
        value: Input for the client, a TritonClipError if the row cannot be sent, or None for a null row.
        source: Origin of the input for error messages, or None if the row has none.
    """

    value: Any
    source: str | None = None

    @property
    def is_sent(self) -> bool:
        """True if the input is sent to the server."""
        return self.value is not None and not isinstance(self.value, TritonClipError)


def image_form(data_type: DataType, column: str) -> InputForm:
    """Return the form of a column of images, by its type.

    Raises:
        InvalidInputError: A column of this type cannot hold images.
    """
    if isinstance(data_type, BinaryType):
        return "content"
    if isinstance(data_type, StringType):
        return "path"
    if isinstance(data_type, StructType) and set(IMAGE_FIELDS) <= set(data_type.names):
        return "image"
    raise InvalidInputError(
        f"inputCol {column!r} is of type {data_type.simpleString()}: expected binary (file contents, for "
        "example from spark.read.format('binaryFile')), string (paths or URLs), or the struct of "
        "spark.read.format('image')"
    )


def text_form(data_type: DataType, column: str) -> InputForm:
    """Return the form of a column of texts.

    Raises:
        InvalidInputError: The column does not hold strings.
    """
    if isinstance(data_type, StringType):
        return "text"
    raise InvalidInputError(f"inputCol {column!r} is of type {data_type.simpleString()}: expected string")


def read_inputs(batches: Iterable[Any], form: InputForm) -> Iterator[RowInput]:
    """Yield the input of each row. Batches of structs are DataFrames, all others are Series."""
    read = _READERS[form]
    for batch in batches:
        yield from read(batch)


def _read_texts(batch: pd.Series[Any]) -> Iterator[RowInput]:
    return (RowInput(value if isinstance(value, str) else None) for value in batch)


def _read_contents(batch: pd.Series[Any]) -> Iterator[RowInput]:
    return (RowInput(None if value is None else bytes(value)) for value in batch)


def _read_paths(batch: pd.Series[Any]) -> Iterator[RowInput]:
    for value in batch:
        yield _from_path(value) if isinstance(value, str) else RowInput(None)


def _from_path(path: str) -> RowInput:
    """Read a path or URL, including Spark's forms of local paths, `file:/a` and `file:///a%20b`."""
    scheme = urllib.parse.urlsplit(path).scheme if "://" in path else ""
    if path.startswith(_FILE_SCHEME):
        local = path.removeprefix(_FILE_SCHEME)
        local = local.removeprefix("//") if local.startswith("///") else local
        return RowInput(local if os.path.exists(local) else urllib.parse.unquote(local), path)
    if is_url(path) or not scheme:
        return RowInput(path, path[:200])
    error = InvalidInputError(
        f"only Spark can read paths that begin with {scheme}://; use the column content of "
        "spark.read.format('binaryFile')"
    )
    return RowInput(error, path)


def _read_structs(batch: pd.DataFrame) -> Iterator[RowInput]:
    for origin, *fields in zip(*(batch[name] for name in IMAGE_FIELDS), strict=True):
        source = origin if isinstance(origin, str) else None
        if fields[-1] is None and pd.isna(fields[0]):
            yield RowInput(None, source)
            continue
        try:
            yield RowInput(to_pixels(*fields), source)
        except InvalidInputError as error:
            yield RowInput(error, source)


def to_pixels(height: Any, width: Any, channels: Any, mode: Any, data: Any) -> npt.NDArray[np.uint8]:
    """Convert Spark's image struct to pixels for the client.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        channels: 1, 3 or 4.
        mode: OpenCV's number for the pixel type.
        data: Interleaved grey, BGR or BGRA bytes, one byte per channel, top row first.

    Returns:
        uint8 [h, w] grey, [h, w, 3] RGB or [h, w, 4] RGBA.

    Raises:
        InvalidInputError: Spark could not decode the image, or the fields are inconsistent.
    """
    if data is None or any(pd.isna(field) for field in (height, width, channels, mode)):
        raise InvalidInputError(
            "image: a field of the image struct is null; fill in all fields, or make the whole struct null"
        )
    height, width, channels, mode = int(height), int(width), int(channels), int(mode)
    if height < 1 or width < 1:
        raise InvalidInputError(
            "image: Spark could not decode it; use spark.read.format('binaryFile') to decode it on the server"
        )
    if CHANNELS_BY_MODE.get(mode) != channels:
        raise InvalidInputError(
            f"image: mode {mode} with {channels} channels; expected mode 0 with 1, 16 with 3, or 24 with 4"
        )
    pixels = np.frombuffer(data, np.uint8)
    if pixels.size != height * width * channels:
        raise InvalidInputError(
            f"image: {pixels.size} bytes of data; {height} x {width} pixels of {channels} channels need "
            f"{height * width * channels}"
        )
    if channels == 1:
        return pixels.reshape(height, width)
    shaped = pixels.reshape(height, width, channels)
    return shaped[..., [2, 1, 0, 3][:channels]]


_READERS: dict[InputForm, Callable[[Any], Iterator[RowInput]]] = {
    "image": _read_structs,
    "content": _read_contents,
    "path": _read_paths,
    "text": _read_texts,
}
