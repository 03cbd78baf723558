"""Arrival time, limits and work of a request: stamped by `admission`, checked and added to by later steps.

All times are in microseconds of the host's monotonic clock, which the processes of a server share.
"""

from __future__ import annotations

import struct
import time
from typing import NamedTuple

import numpy as np

LONGEST_US = 7 * 24 * 3600 * 1_000_000
"""Longest deadline of a request."""
_NUMBERS, _PARTS = struct.Struct("=6q"), struct.Struct("=5q")
"""A row of `times`, and one of `timings_us`. NumPy would take almost twice as long to write one."""


class RejectedError(RuntimeError):
    """A request that the server does not work on: its time is up, or the server is overloaded or draining.

    Args:
        reason: "overload", "deadline" or "draining".
        text: The message for the caller.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def cancelled() -> RejectedError:
    """Return the rejection of a request whose caller no longer waits."""
    return RejectedError("deadline", "deadline passed: the caller cancelled the request")


class Times(NamedTuple):
    """Arrival time and limits of a request, and the time that its steps worked, in microseconds."""

    arrival_us: int
    budget_us: int
    """Longest total wait, over all steps, before work begins."""
    deadline_us: int
    """Clock time at which the caller stops waiting."""
    text_us: int = 0
    """Time that `text_encoder` worked for the request's batch."""
    decode_us: int = 0
    """Time that `image_preprocess` worked for the request's batch."""
    encode_us: int = 0
    """Time that `vision_encoder` worked for the request's batch."""

    @property
    def worked_us(self) -> int:
        """Time that earlier steps spent working. It does not count against the budget."""
        return self.text_us + self.decode_us + self.encode_us

    @property
    def latest_start_us(self) -> int:
        """Clock time after which a step must not begin."""
        return min(self.arrival_us + self.budget_us + self.worked_us, self.deadline_us)

    @property
    def allowed_ms(self) -> float:
        """Milliseconds between the arrival and the deadline."""
        return (self.deadline_us - self.arrival_us) / 1000

    def is_possible(self, now: int) -> bool:
        """Return whether `admission` and the steps after it can have made these times."""
        age_us, allowed_us = now - self.arrival_us, self.deadline_us - self.arrival_us
        is_worked = min(self.text_us, self.decode_us, self.encode_us) >= 0 and self.worked_us <= age_us
        return is_worked and age_us <= LONGEST_US and 0 <= allowed_us <= LONGEST_US

    def waited_ms(self, now: int) -> float:
        """Return the milliseconds that the request has waited, without the time spent working on it."""
        return (now - self.arrival_us - self.worked_us) / 1000

    def check(self, now: int) -> None:
        """Reject the request if it is too late to begin work on it.

        Args:
            now: The current clock time.

        Raises:
            RejectedError: The queue budget or the deadline has passed.
        """
        if now <= self.latest_start_us:
            return
        waited = f"the request has waited {self.waited_ms(now):.0f} ms"
        if now > self.deadline_us:
            raise RejectedError(
                "deadline",
                f"deadline passed: {waited}; its caller allowed {self.allowed_ms:.0f} ms (deadline_ms)",
            )
        budget_ms = self.budget_us / 1000
        raise RejectedError(
            "overload",
            f"overloaded: {waited}; the queue budget is {budget_ms:.0f} ms (admission.queue_budget_ms)",
        )

    def after(self, *, text_us: int = 0, decode_us: int = 0, encode_us: int = 0) -> Times:
        """Return the times for the next step, after this one worked for a time."""
        arrival_us, budget_us, deadline_us, text, decode, encode = self
        return Times(
            arrival_us, budget_us, deadline_us, text + text_us, decode + decode_us, encode + encode_us
        )

    def tensor(self, rows: int) -> np.ndarray:
        """Return the times as int64 [rows, 6], the same in each row."""
        return np.ndarray((rows, len(self)), np.int64, _NUMBERS.pack(*self) * rows)

    def timings(self, rows: int, now: int, score_us: int = 0) -> np.ndarray:
        """Return where the time since the arrival went, as int64 [rows, 5], the same in each row.

        Args:
            rows: Rows of the request.
            now: The clock time at the end of the last step.
            score_us: Time that `similarity` worked for the request's batch.

        Returns:
            Microseconds of waiting between the steps, text encoding, decoding, image encoding and scoring.
            They add up to the time since the arrival. Without an arrival, nothing was waited for.
        """
        work = self.text_us, self.decode_us, self.encode_us, score_us
        waited_us = now - self.arrival_us - sum(work) if self.arrival_us else 0
        return np.ndarray((rows, 5), np.int64, _PARTS.pack(waited_us, *work) * rows)


UNLIMITED = Times(0, 2**61, 2**61)
"""Times of a request that did not pass through `admission`."""


def now_us() -> int:
    """Return the host's monotonic clock in microseconds."""
    return time.monotonic_ns() // 1000


def read_times(tensor: np.ndarray) -> Times:
    """Read the times of a request, int64 [rows, 6] with equal rows."""
    return Times(*_NUMBERS.unpack_from(tensor.data))
