"""Ends a program in order on the first signal that asks for it; later ones leave its clean-up alone."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _exit(number: int) -> None:
    sys.exit(128 + number)


def on_stop_signal(act: Callable[[int], None] = _exit) -> None:
    """Has the first of SIGINT, SIGTERM and SIGHUP call `act`, and all that follow ignored.

    Args:
        act: Takes the signal's number, in the main thread, and raises; without one the program exits with 128
            and the number.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        act(number)

    for number in STOP_SIGNALS:
        signal.signal(number, handle)
