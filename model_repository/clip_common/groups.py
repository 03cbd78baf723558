"""Request groups: read and check the elements of a request, and split joined results by request.

Each row of a request is one independent group: n images ranked against m labels. The module does not depend
on Triton, images, tokens or models; `responder` connects it to Triton's requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final, Literal, NamedTuple

import numpy as np

from clip_common.times import UNLIMITED, Times

Outputs = dict[str, np.ndarray]
"""Output tensors of one request by name."""
DEFERRED: Final = "deferred"
"""Outcome of a request whose response follows later."""
Outcome = Outputs | Exception | Literal["deferred"]
"""Outputs of one request, the error that it alone ran into, or DEFERRED."""


class RequestError(ValueError):
    """An invalid request; the text is sent to the caller and says how to correct it."""


class EmbeddingError(RuntimeError):
    """An embedding that is not finite, which is the fault of the model; the text is sent to the caller."""


def element_name(kind: str, position: int, shape: Sequence[int]) -> str:
    """Name an element in an error text: "image 3", or "image 3 of row 1" if there are several rows.

    Args:
        kind: "image" or "label".
        position: Index into the flattened tensor.
        shape: [rows, columns, ...] of the tensor.
    """
    rows, columns = shape[0], shape[1]
    if rows == 1:
        return f"{kind} {position}"
    return f"{kind} {position % columns} of row {position // columns}"


def check_count(kind: str, shape: Sequence[int], limit: int) -> None:
    """Reject a request that has no elements, or more than `limit` (parameter `max_<kind>s`) over all rows.

    Raises:
        RequestError: Send at least one element, or split the request.
    """
    if len(shape) < 2:  # Triton drops the batch dimension if its size is a multiple of 2**32.
        raise RequestError(f"the tensor of {kind}s has shape {list(shape)}; send [rows, {kind}s per row]")
    count = shape[0] * shape[1]
    if count == 0:
        raise RequestError(f"no {kind}s: the tensor has shape {list(shape)}; send at least one {kind}")
    if count > limit:
        raise RequestError(
            f"too many {kind}s: {count} in one request, the limit is {limit} (max_{kind}s); split the request"
        )


def never_cancelled() -> bool:
    """Return False: nobody can cancel the request."""
    return False


class Elements(NamedTuple):
    """The elements of a request's BYTES tensor."""

    items: list[bytes]
    """All elements, row by row."""
    shape: tuple[int, ...]
    """[rows, elements per row]."""
    times: Times = UNLIMITED
    """Arrival time and limits of the request."""
    is_cancelled: Callable[[], bool] = never_cancelled
    """Returns whether the caller has cancelled the request. Inside an ensemble it is always False."""

    @property
    def size(self) -> int:
        """Number of elements, over all rows."""
        return len(self.items)


def read_elements(
    kind: str,
    tensor: np.ndarray,
    *,
    max_count: int,
    max_bytes: int,
    times: Times = UNLIMITED,
    is_cancelled: Callable[[], bool] = never_cancelled,
) -> Elements:
    """Read a BYTES tensor and check the number and total size of its elements.

    Args:
        kind: "image" or "label", for error texts.
        tensor: object [rows, columns] of bytes.
        max_count: Limit on rows x columns.
        max_bytes: Limit on the sum of the elements' sizes.
        times: Arrival time and limits of the request.
        is_cancelled: Returns whether the caller has cancelled the request.

    Raises:
        RequestError: There are no elements, too many, or too many bytes.
    """
    check_count(kind, tensor.shape, max_count)
    items = tensor.ravel().tolist()
    total = sum(map(len, items))
    if total > max_bytes:
        raise RequestError(
            f"request too large: {total} bytes of {kind}s, the limit is {max_bytes} (max_request_bytes); "
            "split the request"
        )
    return Elements(items, tensor.shape, times, is_cancelled)


def check_finite(kind: str, embeds: np.ndarray, shape: Sequence[int]) -> None:
    """Check embeddings for NaN and infinity, which would become scores or spread through an index.

    Args:
        kind: "image" or "label", for the error text.
        embeds: float32 [n, dim], unit L2 norm.
        shape: [rows, elements per row, ...] of the first request's tensor.

    Raises:
        EmbeddingError: An embedding is not finite; the text names the first one.
    """
    if math.isfinite(np.vdot(embeds, embeds)):  # a pass over all values that builds no array
        return
    position = int(np.argmin(np.isfinite(embeds).all(axis=1)))
    raise EmbeddingError(
        f"{element_name(kind, position, shape)} has an embedding with NaN or infinity, which is the fault of "
        "the model's weights or precision; tell the operator of the server"
    )


def split_rows(joined: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
    """Split [sum(counts), ...] into one view per group, in order; a single group gets `joined` itself."""
    if len(counts) == 1:
        return [joined]
    ends = accumulate(counts)
    return [joined[end - count : end] for end, count in zip(ends, counts, strict=True)]
