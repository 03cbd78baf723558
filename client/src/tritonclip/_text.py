"""Text of values that several interfaces print: file names, error reasons and embeddings."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from tritonclip.errors import TritonClipError

_ITEM = re.compile(r"^(?:image|text) \d+\b:?\s*")


def printable(name: str) -> str:
    """Return a file name that can be encoded as UTF-8, with undecodable bytes as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def error_reason(error: TritonClipError) -> str:
    """Return an input's error as one line, without its index in a request and without the server's address.

    Both differ between runs, and a record must be the same whether or not its run was interrupted.
    """
    text = " ".join(error.message.split())
    return printable(_ITEM.sub("", text) or text)


def shortest_floats(vector: npt.NDArray[np.float32]) -> list[float]:
    """Return float32 [d] as numbers that print as the shortest decimals of the float32 values."""
    return [float(str(value)) for value in vector]
