"""Text that several interfaces share: label lists, file names, error reasons, quotations and embeddings."""

from __future__ import annotations

import base64
import binascii
import json
import re

import numpy as np
import numpy.typing as npt

from tritonclip.errors import TritonClipError

_ITEM = re.compile(r"^(?:image|text) \d+\b:?\s*")
SHOWN_CHARS = 100
_IMAGE_URI = "data:image/"
_HEAD_CHARS = 64
HEIF_START = rb".{4}ftyp(?:he[iv][cmsx]|m[is]f1)"
"""Pattern of the first bytes of a HEIC file; an AVIF file may begin with `mif1` too."""
_IMAGE_STARTS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "WebP": rb"RIFF.{4}WEBP",
    "BMP": rb"BM.{4}\0{4}",
    "TIFF": rb"II\*\0|MM\0\*",
    "AVIF": rb".{4}ftypavi[fs]",
    "HEIF": HEIF_START,
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
}
"""Pattern of the first bytes of a file, by image format."""


def split_labels(labels: str) -> list[object]:
    """Return the labels that a single string holds: the items of a JSON array, or the parts between commas.

    This is the rule of every interface. A list of labels is never split.
    """
    items = json_array(labels)
    if items is not None:
        return items
    return [label.strip() for label in labels.split(",") if label.strip()]


def json_array(text: str) -> list[object] | None:
    """Return the items of a text that is a JSON array, or None for any other text."""
    if not text.lstrip().startswith("["):
        return None
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return items if isinstance(items, list) else None


def shown(text: str, chars: int = SHOWN_CHARS) -> str:
    """Quote a text that a caller sent, for an error: at most this many characters, with an ellipsis."""
    return repr(text) if len(text) <= chars else f"{text[:chars]!r}..."


def encoded_image(text: str) -> str | None:
    """Return the kind of image file that a text encodes, such as "a PNG file in base64", or None."""
    if is_image_uri(text):
        return "a data: URI of an image"
    head = text[:_HEAD_CHARS]
    if len(head) < _HEAD_CHARS or " " in head:
        return None
    try:
        start = base64.b64decode("".join(head.split())[: _HEAD_CHARS // 8 * 4], validate=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        return None
    formats = (name for name, pattern in _IMAGE_STARTS.items() if re.match(pattern, start, re.DOTALL))
    found = next(formats, None)
    return found and f"a {found} file in base64"


def is_image_uri(text: str) -> bool:
    """Return True if a text is a data: URI of an image."""
    return text[: len(_IMAGE_URI)].lower() == _IMAGE_URI


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
