"""Limits on the work that one request may cause, checked before and while its images are decoded."""

from __future__ import annotations

import threading
from typing import NamedTuple

from clip_common.groups import Elements, RequestError
from clip_common.times import RejectedError, cancelled, now_us

CANCELLED_INTERVAL_US = 100_000
"""Time between two questions whether a caller has cancelled. Each is a message to Triton."""


class WorkLimits(NamedTuple):
    """Limits per request."""

    max_pixels: int
    """Sum of width x height over all images."""
    max_worker_cpu_s: float
    """CPU time of the worker processes."""


class SkippedError(Exception):
    """An image that is not decoded because an earlier one of its request failed."""


def out_of_memory() -> RejectedError:
    """Return the rejection of a request whose images the machine has no memory for just now."""
    return RejectedError(
        "overload", "overloaded: out of memory while decoding an image; retry later, or send smaller ones"
    )


class RequestWork:
    """Work on a request group. The threads that decode its images share it.

    Args:
        group: The group.
        limits: Its limits.
    """

    def __init__(self, group: Elements, limits: WorkLimits) -> None:
        self._times, self._is_cancelled, self._limits = group.times, group.is_cancelled, limits
        self._begun = self._failed = False
        self._lock = threading.Lock()
        self._pixels, self._cpu_s = 0, 0.0
        self._next_question_us = 0

    def begin_image(self) -> None:
        """Check before each image that the group is still worth the work.

        Raises:
            SkippedError: An image of the group failed.
            RejectedError: It is too late to begin the group, or its caller no longer waits.
        """
        if self._begun:
            if self._failed:
                raise SkippedError
            self.check_caller()
        else:
            now = now_us()
            self._times.check(now)
            self._begun, self._next_question_us = True, now + CANCELLED_INTERVAL_US

    def fail(self) -> None:
        """Skip the images that have not begun."""
        self._failed = True

    def check_caller(self) -> None:
        """Check that the caller still waits.

        Raises:
            RejectedError: The deadline has passed, or the caller has cancelled the request.
        """
        now = now_us()
        if now > self._times.deadline_us:
            self._times.check(now)
        if now >= self._next_question_us:
            self._next_question_us = now + CANCELLED_INTERVAL_US
            if self._is_cancelled():
                raise cancelled()

    def take_pixels(self, pixels: int) -> None:
        """Count the pixels of an image before it is decoded.

        Raises:
            RequestError: The images of the request have too many pixels.
        """
        with self._lock:
            self._pixels += pixels
            taken = self._pixels
        if taken > self._limits.max_pixels:
            raise RequestError(
                f"request too large: more than {self._limits.max_pixels} pixels in all images "
                "(max_request_pixels); split the request"
            )

    @property
    def cpu_left_s(self) -> float:
        """CPU seconds that worker processes may still use."""
        return max(0.0, self._limits.max_worker_cpu_s - self._cpu_s)

    def take_cpu(self, used_s: float) -> None:
        """Count CPU time that a worker process has used."""
        with self._lock:
            self._cpu_s += used_s
