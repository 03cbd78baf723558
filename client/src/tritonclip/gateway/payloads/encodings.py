"""Forms in which embedding APIs return a vector: numbers, base64, or numbers of fewer bits."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from tritonclip._messages.text import shortest_floats

Encoding = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]
Vector = npt.NDArray[np.float32]
INT8_MAX, INT8_OFFSET = 127, 128


def encode(vector: Vector, encoding: Encoding) -> list[float] | list[int] | str:
    """Return an embedding in the form that a caller asked for.

    - float: the shortest decimals of the float32 values.
    - base64: the bytes of the float32 values, little-endian, as OpenAI's clients read them.
    - int8: whole numbers from -127 to 127. The vector is scaled so that its largest magnitude becomes 127,
      which keeps its direction; compare such vectors by cosine.
    - uint8: the int8 values plus 128.
    - ubinary: d / 8 bytes from 0 to 255. Each bit is 1 if its value is above 0, the first one the highest.
    - binary: the ubinary bytes minus 128.

    Args:
        vector: float32 [d], finite.
        encoding: One of the forms.

    Source: binary, ubinary and the offset of uint8 as in sentence_transformers.util.quantize_embeddings,
    which infinity calls. Its int8 needs the ranges of a calibration set, which a single request lacks.
    """
    return _ENCODERS[encoding](vector)


def _base64(vector: Vector) -> str:
    return base64.b64encode(vector.astype(np.dtype("<f4")).tobytes()).decode("ascii")


def _int8(vector: Vector) -> list[int]:
    largest = np.abs(vector).max(initial=np.finfo(np.float32).tiny)
    return cast("list[int]", np.rint(vector / largest * INT8_MAX).astype(int).tolist())


def _uint8(vector: Vector) -> list[int]:
    return [value + INT8_OFFSET for value in _int8(vector)]


def _binary(vector: Vector) -> list[int]:
    return [value - INT8_OFFSET for value in _ubinary(vector)]


def _ubinary(vector: Vector) -> list[int]:
    return cast("list[int]", np.packbits(vector > 0).tolist())


_ENCODERS: Mapping[Encoding, Callable[[Vector], list[float] | list[int] | str]] = {
    "float": shortest_floats,
    "base64": _base64,
    "int8": _int8,
    "uint8": _uint8,
    "binary": _binary,
    "ubinary": _ubinary,
}
