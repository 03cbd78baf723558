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
    budget_us: int
    """How long it may wait, all steps together, for work on it to begin."""
    deadline_us: int
    """The clock's time from which on its caller does not wait."""
    worked_us: int = 0
    """What steps before this one worked, which takes nothing of the budget."""

    @property
    def latest_start_us(self) -> int:
        """When it is too late to begin."""
        return min(self.arrival_us + self.budget_us + self.worked_us, self.deadline_us)

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
        waited = f"the request has waited {(now - self.arrival_us - self.worked_us) / 1000:.0f} ms"
        if ahead_us:
            waited += f" and about {ahead_us / 1000:.0f} ms of work is before it"
        if start > self.deadline_us:
            given_ms = (self.deadline_us - self.arrival_us) / 1000
            over = "passed" if now > self.deadline_us else "cannot be met"
            raise RefusedError(
                "deadline", f"deadline {over}: {waited}, its caller gave it {given_ms:.0f} ms (deadline_ms)"
            )
        budget_ms = self.budget_us / 1000
        raise RefusedError(
            "overload",
            f"overloaded: {waited}, the queue budget is {budget_ms:.0f} ms (admission.queue_budget_ms)",
        )

    def after_work(self, took_us: int) -> Times:
        """The times for the next step, once this one has worked for so long."""
        return self._replace(worked_us=self.worked_us + took_us)

    def tensor(self, rows: int) -> np.ndarray:
        """The same in each row: int64 [rows, 4]."""
        return np.tile(np.array(self, np.int64), (rows, 1))


UNLIMITED = Times(0, 2**61, 2**61)
"""Of requests that did not come through `admission`."""


def now_us() -> int:
    """The host's monotonic clock in microseconds."""
    return time.monotonic_ns() // 1000


def read_times(tensor: np.ndarray | None) -> Times:
    """The times of a request.

    Args:
        tensor: int64 [rows, 4], equal rows; None where the request has none.
    """
    if tensor is None or not tensor.size:
        return UNLIMITED
    # Callers of a single model may send anything: sums must stay within int64.
    return Times(*(min(max(int(time_us), 0), 2**61) for time_us in tensor.reshape(-1, 4)[0]))
