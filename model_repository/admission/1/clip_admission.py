"""Arrival time and deadline of a request, from the caller's `deadline_ms` and the server's limits."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

import numpy as np

from clip_common.groups import RequestError
from clip_common.times import LONGEST_US, RejectedError, Times

DEADLINE_MS = "deadline_ms"
DECODER = json.JSONDecoder()
"""Decodes an object without the checks of `json.loads`; Triton writes the parameters of a request."""
LONGEST_MS = LONGEST_US / 1000
"""Longest deadline; longer ones are shortened to it."""


class Limits(NamedTuple):
    """Limits that a deployment sets."""

    queue_budget_ms: int
    default_deadline_ms: int


def stamp(parameters: str, rows: int, limits: Limits, now_us: int) -> np.ndarray:
    """Return the `Times` of a request as int64 [rows, 6], the same in each row.

    Args:
        parameters: The request's parameters as JSON.
        rows: Rows of the request.
        limits: The deployment's limits.
        now_us: The host's monotonic clock.

    Raises:
        RejectedError: The caller has no time left.
        RequestError: `deadline_ms` is not a number.
    """
    deadline_ms = read_deadline(parameters, limits.default_deadline_ms)
    if deadline_ms <= 0:
        raise RejectedError(
            "deadline", f"deadline passed: the request arrived with {deadline_ms:g} ms left ({DEADLINE_MS})"
        )
    deadline_us = now_us + int(deadline_ms * 1000)
    return Times(now_us, limits.queue_budget_ms * 1000, deadline_us).tensor(rows)


def read_deadline(parameters: str, default_ms: float) -> float:
    """Return the milliseconds that the caller will still wait, at most `LONGEST_MS`.

    Raises:
        RequestError: `deadline_ms` is not a number.
    """
    value: Any = default_ms
    if DEADLINE_MS in parameters:
        value = DECODER.raw_decode(parameters)[0].get(DEADLINE_MS, default_ms)
    number = _number(value)
    if not math.isfinite(number):
        raise RequestError(
            f"parameter '{DEADLINE_MS}' must be a number, the milliseconds that the caller will still wait, "
            f"not {str(value)[:40]!r}"
        )
    return min(number, LONGEST_MS)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
