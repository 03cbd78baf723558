"""Shut down cleanly on the first SIGINT, SIGTERM or SIGHUP, and ignore later ones during cleanup."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _exit(number: int) -> None:
    sys.exit(128 + number)


def on_stop_signal(act: Callable[[int], None] = _exit) -> None:
    """Call `act` on the first SIGINT, SIGTERM or SIGHUP, and ignore all that follow.

    Args:
        act: Called in the main thread with the signal's number; it raises. By default the program exits with
            128 plus that number.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        for stop_signal in STOP_SIGNALS:
            signal.signal(stop_signal, signal.SIG_IGN)
        act(number)

    for number in STOP_SIGNALS:
        signal.signal(number, handle)
