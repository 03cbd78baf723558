"""The search for the knee: the highest rate that holds. Pure: it asks, and is told whether a rate held."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

LOWEST_RATE = 0.1
HIGHEST_RATE = 100_000.0

Search = Generator[float, bool, "Knee"]
"""Yields rates to try in requests/s, is sent whether each held, and returns what was found."""


@dataclass(frozen=True)
class Knee:
    """What a search found.

    Attributes:
        held: The highest rate that held, requests/s; 0 where none did.
        failed: The lowest that did not; None where all held.
    """

    held: float
    failed: float | None


def search(first: float, *, precision: float = 0.05, tries: int = 1) -> Search:
    """Double the rate until it fails (or halve it until it holds), then halve the ratio that is left.

    Args:
        first: The rate to begin with, requests/s.
        precision: The search ends where the lowest failed rate is above the highest held one by at most this
            share.
        tries: A rate fails only if it does not hold this many times in a row.
    """
    held, failed, rate = 0.0, math.inf, first
    while (failed == math.inf or held == 0) and LOWEST_RATE <= rate <= HIGHEST_RATE:
        if (yield from _holds(rate, tries)):
            held = rate
            rate *= 2
        else:
            failed = rate
            rate /= 2
    while 0 < held and failed < math.inf and failed > held * (1 + precision):
        middle = math.sqrt(held * failed)
        if (yield from _holds(middle, tries)):
            held = middle
        else:
            failed = middle
    return Knee(held, None if failed == math.inf else failed)


def _holds(rate: float, tries: int) -> Generator[float, bool, bool]:
    for _ in range(tries):
        if (yield rate):
            return True
    return False


def run_search(searching: Search, holds: Callable[[float], bool]) -> Knee:
    """Answer a search's questions until it has found the knee."""
    try:
        rate = next(searching)
        while True:
            rate = searching.send(holds(rate))
    except StopIteration as end:
        found: Knee = end.value
        return found
