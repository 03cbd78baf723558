"""Whether an answer to hostile input is as it should be: right, or an error that blames the caller.

Pure: sends nothing.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator

import numpy as np

from clip_images import ImageDecoder, ImageError, ProcessorSettings
from tests.system.fuzz.fuzz_wire import Reply, Request

CALLERS_FAULT = {
    "grpc": ("INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"),
    "http": ("400", "404", "405", "501"),
}
REFUSED = re.compile(r"deadline passed: |deadline cannot be met: |overloaded: ")
"""By admission: UNAVAILABLE and 503."""

TRITONS_OWN = {
    ("INTERNAL", "Unable to parse request"): "gRPC's own words for bytes that are no message",
    ("500", "failed to parse the request JSON buffer"): "Triton's status for what is not JSON",
    ("500", "was not found in the JSON"): "Triton's status for a parameter with a NUL in its name",
    ("500", "attempt to "): "Triton's status for a JSON value that is missing or of the wrong type",
}
"""Statuses that blame the server, but are given by Triton itself before any model is asked."""

LEAK = re.compile(
    r"Traceback|File \"|incident|internal error|/tmp/|/usr/|/home/|/root/|/dev/shm|site-packages|\w\.py\b|"
    r"0x[0-9a-f]{8,}|<_io\.|object at",
    re.IGNORECASE,
)
DECODER = ImageDecoder(
    ProcessorSettings(224, 3, (224, 224)),
    ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"),
    89_478_485,
)


def complaint(protocol: str, request: Request | bytes, reply: Reply) -> str | None:
    """What is wrong with an answer; None where nothing is."""
    if reply.status == "OK":
        return _wrong_outputs(request, reply)
    leak = LEAK.search(reply.message)
    if leak and leak.group() not in _sent_text(request):
        return f"the message leaks {leak.group()!r}: {reply.message[:500]}"
    if reply.status in CALLERS_FAULT[protocol] and reply.message:
        return None
    if reply.status in ("UNAVAILABLE", "503") and REFUSED.search(reply.message):
        return None
    if any(reply.status == status and text in reply.message for status, text in TRITONS_OWN):
        return None
    if reply.status == "CLOSED" and isinstance(request, bytes) and protocol == "http":
        return None  # Triton's HTTP server closes on a head that it cannot read, and on a body that is cut.
    return f"answered {reply.status}: {reply.message[:500]}"


def _sent_text(request: Request | bytes) -> str:
    if isinstance(request, bytes):
        return request.decode("utf-8", errors="replace")
    return f"{request.model} {request.version} {request.tensors} {request.outputs} {request.parameters}"


def _wrong_outputs(request: Request | bytes, reply: Reply) -> str | None:
    for name, array in (reply.outputs or {}).items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"{name} holds numbers that are not finite"
        if name == "scores" and not np.allclose(array.sum(axis=-1), 1, atol=1e-4):
            return "scores do not add up to 1"
        if name.endswith("_embeds") and not np.allclose(np.linalg.norm(array, axis=-1), 1, atol=1e-3):
            return f"{name} are not of unit length"
        if name == "pixel_values" and isinstance(request, Request):
            return _wrong_pixels(request, array)
    return None


def _wrong_pixels(request: Request, pixels: np.ndarray) -> str | None:
    """Compares with the pixels that the decoder makes of the same files by itself."""
    data = next((one.data for one in request.tensors if one.name == "image"), b"")
    for image, file in zip(pixels.reshape(-1, *pixels.shape[-3:]), _elements(data), strict=True):
        try:
            if not np.array_equal(image, _decode(file)):
                return "pixel_values are those of another image"
        except ImageError as error:
            return f"pixel_values for an image that {error}"
    return None


def _decode(file: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of odd tags
        return DECODER.decode(file)


def _elements(data: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(data):
        (size,) = struct.unpack_from("<I", data, place)
        yield data[place + 4 : place + 4 + size]
        place += 4 + size
