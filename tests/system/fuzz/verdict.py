"""Judgment of an answer to hostile input: it must be right, or an error that blames the caller.

The functions are pure and send nothing.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator

import numpy as np

from clip_geometry import TORCHVISION, ProcessorSettings
from clip_images import ImageDecoder
from clip_pillow import ImageError
from tests.system.fuzz.wire import Reply, Request

CALLER_ERRORS = {
    "grpc": ("INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"),
    "http": ("400", "404", "405", "501"),
}
REJECTED = re.compile(r"deadline passed: |deadline cannot be met: |overloaded: ")
"""Beginning of the messages of rejections, whose status is UNAVAILABLE or 503."""

TRITON_ERRORS = {
    ("INTERNAL", "Unable to parse request"): "gRPC's status for bytes that are not a message",
    ("500", "failed to parse the request JSON buffer"): "Triton's status for a body that is not JSON",
    ("500", "was not found in the JSON"): "Triton's status for a parameter with a NUL in its name",
    ("500", "attempt to "): "Triton's status for a JSON value that is missing or of the wrong type",
}
"""Server errors that Triton itself returns before a model runs: status, part of the message, reason."""

LEAK = re.compile(
    r"Traceback|File \"|incident|internal error|/tmp/|/usr/|/home/|/root/|/dev/shm|site-packages|\w\.py\b|"
    r"0x[0-9a-f]{8,}|<_io\.|object at",
    re.IGNORECASE,
)
DECODER = ImageDecoder(
    ProcessorSettings(224, 3, (224, 224), image_processor=TORCHVISION),
    ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF"),
    89_478_485,
)


def complaint(protocol: str, request: Request | bytes, reply: Reply) -> str | None:
    """Return the fault of an answer, or None if it has none."""
    if reply.status == "OK":
        return _wrong_outputs(request, reply)
    leak = LEAK.search(reply.message)
    if leak and leak.group() not in _sent_text(request):
        return f"the message leaks {leak.group()!r}: {reply.message[:500]}"
    if reply.status in CALLER_ERRORS[protocol] and reply.message:
        return None
    if reply.status in ("UNAVAILABLE", "503") and REJECTED.search(reply.message):
        return None
    if any(reply.status == status and text in reply.message for status, text in TRITON_ERRORS):
        return None
    if reply.status == "CLOSED" and isinstance(request, bytes) and protocol == "http":
        return None  # Triton's HTTP server closes the connection on an unreadable head or an incomplete body.
    return f"answered {reply.status}: {reply.message[:500]}"


def _sent_text(request: Request | bytes) -> str:
    if isinstance(request, bytes):
        return request.decode("utf-8", errors="replace")
    return f"{request.model} {request.version} {request.tensors} {request.outputs} {request.parameters}"


def _wrong_outputs(request: Request | bytes, reply: Reply) -> str | None:
    for name, array in (reply.outputs or {}).items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return f"{name} has numbers that are not finite"
        if name == "scores" and not np.allclose(array.sum(axis=-1), 1, atol=1e-4):
            return "scores do not add up to 1"
        if name.endswith("_embeds") and not np.allclose(np.linalg.norm(array, axis=-1), 1, atol=1e-3):
            return f"{name} do not have unit length"
        if name == "pixel_values" and isinstance(request, Request):
            return _wrong_pixels(request, array)
    return None


def _wrong_pixels(request: Request, pixels: np.ndarray) -> str | None:
    """Compare with the pixels that the decoder computes from the same files in this process."""
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
        warnings.simplefilter("ignore")  # Pillow warns of unusual tags
        return DECODER.decode(file)


def _elements(data: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(data):
        (size,) = struct.unpack_from("<I", data, place)
        yield data[place + 4 : place + 4 + size]
        place += 4 + size
