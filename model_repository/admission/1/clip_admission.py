"""How long a request may take: the caller's `deadline_ms` and the limits of the server. No Triton here."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

import numpy as np

from clip_common.groups import RequestError
from clip_common.times import RefusedError, Times

DEADLINE_MS = "deadline_ms"
LONGEST_MS = 7 * 24 * 3600 * 1000.0
"""Longer deadlines are cut to this one, so that the sums stay far from the end of an int64."""


class Limits(NamedTuple):
    """What a deployment allows."""

    queue_budget_ms: int
    default_deadline_ms: int


def stamp(parameters: str, rows: int, limits: Limits, now_us: int) -> np.ndarray:
    """The request's times, the same in each row: int64 [rows, 4], as `clip_times.Times`.

    Args:
        parameters: The request's parameters as JSON.
        rows: Of the request.
        limits: What the deployment allows.
        now_us: The host's monotonic clock.

    Raises:
        RefusedError: The caller has no time left.
        RequestError: `deadline_ms` is not a number.
    """
    deadline_ms = read_deadline(parameters, limits.default_deadline_ms)
    if deadline_ms <= 0:
        raise RefusedError(
            "deadline", f"deadline passed: the request came with {deadline_ms:g} ms left ({DEADLINE_MS})"
        )
    deadline_us = now_us + int(deadline_ms * 1000)
    return Times(now_us, limits.queue_budget_ms * 1000, deadline_us).tensor(rows)


def read_deadline(parameters: str, default_ms: float) -> float:
    """The milliseconds that the caller still waits, at most `LONGEST_MS`.

    Raises:
        RequestError: `deadline_ms` is not a number.
    """
    value = json.loads(parameters or "{}").get(DEADLINE_MS, default_ms)
    number = _number(value)
    if not math.isfinite(number):
        raise RequestError(
            f"parameter '{DEADLINE_MS}' must be the milliseconds that the caller still waits, as a number, "
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
