"""Waiting for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], object],
    failure: str | Callable[[], str],
    timeout_s: float = 120.0,
    interval_s: float = 0.02,
) -> float:
    """Wait until a condition holds, and return the seconds it took.

    Args:
        condition: Called until its result is true.
        failure: Message of the AssertionError after `timeout_s`, or a function that makes the message.
        timeout_s: Longest wait in seconds. It only ends a hopeless wait, so make it a minute or more.
        interval_s: Pause between two calls in seconds.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_s:
            reason = failure if isinstance(failure, str) else failure()
            raise AssertionError(f"after {timeout_s:g} s: {reason}")
        time.sleep(interval_s)
    return time.monotonic() - began


def settled(read: Callable[[], T], pause_s: float = 0.2) -> T:
    """Return the value of `read()` once three readings in a row, a pause apart, are equal.

    Servers update their counters shortly after they have answered. If a test knows the value that it expects,
    it waits for this value with `wait_until` instead.
    """
    readings = [read()]
    while len(readings) < 3 or readings[-3:].count(readings[-1]) < 3:
        time.sleep(pause_s)
        readings.append(read())
    return readings[-1]
