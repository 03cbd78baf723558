"""Request groups: reading, checking, joining and cutting back the elements of requests.

Every row of a request is one independent group (n images ranked against m labels). This module knows
nothing of images, tokens or models, and nothing of Triton: `clip_responder` turns requests into calls of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from clip_common.times import UNLIMITED, Times

Outputs = dict[str, np.ndarray]
"""Output tensors of one request by name."""


class RequestError(ValueError):
    """A request that cannot be served as sent; its text goes to the caller and names the cure."""


class Parameters:
    """The `parameters` of a `config.pbtxt`, read by type.

    Args:
        model_config: Triton's model configuration, as parsed from `args["model_config"]`.
    """

    def __init__(self, model_config: dict[str, Any]) -> None:
        self._values = {
            key: entry["string_value"] for key, entry in model_config.get("parameters", {}).items()
        }

    def text(self, name: str) -> str:
        """The parameter as it stands; ValueError where `config.pbtxt` lacks it."""
        if name not in self._values:
            raise ValueError(f"parameter '{name}' is missing from config.pbtxt")
        return self._values[name]

    def integer(self, name: str, minimum: int = 0) -> int:
        """The parameter as a whole number of at least `minimum`; ValueError where it is not."""
        text = self.text(name)
        try:
            value = int(text)
        except ValueError as error:
            raise ValueError(f"parameter '{name}' must be a whole number, not '{text}'") from error
        if value < minimum:
            raise ValueError(f"parameter '{name}' must be at least {minimum}, not {value}")
        return value

    def choice(self, name: str, allowed: Sequence[str]) -> str:
        """The parameter as one of `allowed`; ValueError where it is not."""
        text = self.text(name)
        if text not in allowed:
            raise ValueError(f"parameter '{name}' must be one of {', '.join(allowed)}, not '{text}'")
        return text


def element(kind: str, position: int, shape: Sequence[int]) -> str:
    """Names an element of a request for an error text: "image 3", or "image 3 of row 1" where there are rows.

    Args:
        kind: "image", "label" and the like.
        position: Index into the flattened tensor.
        shape: [rows, columns, ...] of the tensor.
    """
    rows, columns = shape[0], shape[1]
    if rows == 1:
        return f"{kind} {position}"
    return f"{kind} {position % columns} of row {position // columns}"


def check_count(kind: str, shape: Sequence[int], limit: int) -> None:
    """Refuses a request without elements, or with more than `limit` (parameter `max_<kind>s`) over all rows.

    Raises:
        RequestError: Send at least one element, or split the request.
    """
    if len(shape) < 2:  # Triton drops a number of rows that is 0 once cut to 32 bits.
        raise RequestError(f"the tensor of {kind}s has shape {list(shape)}; send [rows, {kind}s per row]")
    count = shape[0] * shape[1]
    if count == 0:
        raise RequestError(f"no {kind}s: the tensor has shape {list(shape)}; send at least one {kind}")
    if count > limit:
        raise RequestError(
            f"too many {kind}s: {count} in one request, the limit is {limit} (max_{kind}s); split the request"
        )


class Elements(NamedTuple):
    """The elements of a request's BYTES tensor."""

    items: list[bytes]
    shape: tuple[int, ...]
    """[rows, elements per row]."""
    times: Times = UNLIMITED
    """Of the request."""


def read_elements(
    kind: str, tensor: np.ndarray, *, max_count: int, max_bytes: int, times: Times = UNLIMITED
) -> Elements:
    """The elements of a BYTES tensor, checked for number and total size.

    Args:
        kind: What an element is, for error texts.
        tensor: object [rows, columns], each element bytes.
        max_count: Limit on rows x columns.
        max_bytes: Limit on the sum of the elements' sizes.
        times: Of the request.

    Raises:
        RequestError: No elements, too many, or too many bytes.
    """
    check_count(kind, tensor.shape, max_count)
    items = tensor.ravel().tolist()
    total = sum(map(len, items))
    if total > max_bytes:
        raise RequestError(
            f"request too large: {total} bytes of {kind}s, the limit is {max_bytes} (max_request_bytes); "
            "split the request"
        )
    return Elements(items, tensor.shape, times)


def pass_slices(count: int, largest: int) -> Iterator[slice]:
    """Cuts `count` items into as few passes of at most `largest` as will do, of sizes as even as can be.

    Example: 37 items, of which a pass takes 16 at most, are passes of 12, 12 and 13.
    """
    passes = -(-count // largest)
    for number in range(passes):
        yield slice(count * number // passes, count * (number + 1) // passes)


def split_rows(joined: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
    """Cuts [sum(counts), ...] back into one view per group, in order."""
    ends = np.cumsum(counts)
    return [joined[end - count : end] for end, count in zip(ends, counts, strict=True)]
