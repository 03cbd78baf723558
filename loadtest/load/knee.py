"""The shape `knee`: find the highest arrival rate with p99 below the target and no failures."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from .settings import LoadSettings
from .step import StepResult, step_line

LOWEST_RATE = 0.1
HIGHEST_RATE = 100_000.0

Search = Generator[float, bool, "Knee"]
"""Yields rates in requests/s, receives whether the server sustained each, and returns the knee."""


@dataclass(frozen=True)
class Knee:
    """Result of a search.

    Attributes:
        sustained: Highest rate that the server sustained, requests/s; 0 if there is none.
        failed: Lowest rate that it did not sustain; None if it sustained all.
    """

    sustained: float
    failed: float | None


def find_knee(
    offer: Callable[[float], StepResult], settings: LoadSettings, echo: Callable[[str], None]
) -> dict[str, Any]:
    """Search for the knee, and print one line per step.

    Args:
        offer: Runs one step at a rate.
        settings: Target, first rate, precision, tries.
        echo: Prints a line.

    Returns:
        `knee` (requests/s, 0 if the server sustained no rate), `lowest_failed`, and all `steps`.
    """
    target_ms = settings.target_p99_ms
    parts = f"{settings.warmup_s:g} s warm-up and {settings.measure_s:g} s measured"
    echo(f"knee: steps of {parts}, p99 at most {target_ms:g} ms")
    steps: list[StepResult] = []

    def is_sustained(rate: float) -> bool:
        step = offer(rate)
        failure = step.failure(target_ms)
        steps.append(step)
        echo(step_line(step, failure or "sustained"))
        return not failure

    rates = search(settings.rate, precision=settings.precision, tries=settings.knee_tries)
    found = run_search(rates, is_sustained)
    echo(_verdict(found))
    at_knee = [step.p99_ms for step in steps if step.rate == found.sustained and not step.failure(target_ms)]
    return {
        "shape": "knee",
        "knee": found.sustained,
        "lowest_failed": found.failed,
        "target_p99_ms": target_ms,
        "p99_ms": at_knee[-1] if at_knee else None,
        "wrong": sum(step.wrong for step in steps),
        "steps": [step.figures() | {"failure": step.failure(target_ms)} for step in steps],
    }


def search(first: float, *, precision: float = 0.05, tries: int = 1) -> Search:
    """Double the rate until it fails, or halve it until it is sustained. Then bisect on a logarithmic scale.

    Args:
        first: First rate, requests/s.
        precision: The search ends when the lowest failed rate exceeds the highest sustained rate by at most
            this share.
        tries: A rate fails only after this many failed steps in a row.
    """
    sustained, failed, rate = 0.0, math.inf, first
    while (failed == math.inf or sustained == 0) and LOWEST_RATE <= rate <= HIGHEST_RATE:
        if (yield from _try_rate(rate, tries)):
            sustained = rate
            rate *= 2
        else:
            failed = rate
            rate /= 2
    while 0 < sustained and failed < math.inf and failed > sustained * (1 + precision):
        middle = math.sqrt(sustained * failed)
        if (yield from _try_rate(middle, tries)):
            sustained = middle
        else:
            failed = middle
    return Knee(sustained, None if failed == math.inf else failed)


def _try_rate(rate: float, tries: int) -> Generator[float, bool, bool]:
    for _ in range(tries):
        if (yield rate):
            return True
    return False


def run_search(rates: Search, is_sustained: Callable[[float], bool]) -> Knee:
    """Try the rates of a search until it ends."""
    try:
        rate = next(rates)
        while True:
            rate = rates.send(is_sustained(rate))
    except StopIteration as end:
        found: Knee = end.value
        return found


def _verdict(found: Knee) -> str:
    if found.failed is None:
        return f"knee: above {found.sustained:.2f} requests/s, the highest rate tried"
    if not found.sustained:
        return f"knee: none; the server did not even sustain {found.failed:.2f} requests/s"
    return f"knee: {found.sustained:.2f} requests/s sustained, {found.failed:.2f} not sustained"
