"""When a request came in, and until when work on it may begin: stamped by `admission`, read by later steps.

All times are microseconds of the host's monotonic clock, which its processes share. Knows nothing of Triton.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np


class RefusedError(RuntimeError):
    """A request that is not worked on because its time is over or the server has too much to do.

    Args:
        reason: overload, deadline or draining.
        text: Goes to the caller.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Times(NamedTuple):
    """A request's times in microseconds."""

    arrival_us: int
    start_by_us: int
    """The end of the queue budget: work that has not begun by then is refused."""
    deadline_us: int
    """The caller waits no longer."""

    @property
    def latest_start_us(self) -> int:
        """When it is too late to begin."""
        return min(self.start_by_us, self.deadline_us)

    def check(self, now: int, ahead_us: int = 0) -> None:
        """Refuses the request where its work would begin too late.

        Args:
            now: The clock's time.
            ahead_us: How long the work that comes first will take.

        Raises:
            RefusedError: The budget or the deadline is over, or would be by then.
        """
        start = now + ahead_us
        if start <= self.latest_start_us:
            return
        waited = f"the request has waited {(now - self.arrival_us) / 1000:.0f} ms"
        if ahead_us:
            waited += f" and about {ahead_us / 1000:.0f} ms of work is before it"
        if start > self.deadline_us:
            limit_ms = (self.deadline_us - self.arrival_us) / 1000
            over = "passed" if now > self.deadline_us else "cannot be met"
            raise RefusedError(
                "deadline", f"deadline {over}: {waited}, its caller waits {limit_ms:.0f} ms (deadline_ms)"
            )
        limit_ms = (self.start_by_us - self.arrival_us) / 1000
        raise RefusedError(
            "overload",
            f"overloaded: {waited}, the queue budget is {limit_ms:.0f} ms (admission.queue_budget_ms); "
            "try again later",
        )


UNLIMITED = Times(0, 2**62, 2**62)
"""Of requests that did not come through `admission`."""


def now_us() -> int:
    """The host's monotonic clock in microseconds."""
    return time.monotonic_ns() // 1000


def read_times(tensor: np.ndarray | None) -> Times:
    """The times of a request.

    Args:
        tensor: int64 [rows, 3], equal rows; None where the request has none.
    """
    if tensor is None or not tensor.size:
        return UNLIMITED
    return Times(*map(int, tensor.reshape(-1, 3)[0]))
