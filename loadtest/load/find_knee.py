"""The shape `knee`: the highest rate of arrivals at which p99 stays under the target and nothing fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .knee import Knee, run_search, search
from .settings import LoadSettings
from .step import Step, step_line


def find_knee(
    offer: Callable[[float], Step], settings: LoadSettings, echo: Callable[[str], None]
) -> dict[str, Any]:
    """Search, and print each step as a line.

    Args:
        offer: Runs one step at a rate.
        settings: Target, first rate, precision, tries.
        echo: Prints a line.

    Returns:
        `knee` (requests/s, 0 where no rate held), `lowest_failed`, and all `steps`.
    """
    target_ms = settings.target_p99_ms
    parts = f"{settings.warmup_s:g} s warm-up and {settings.measure_s:g} s measured"
    echo(f"knee: steps of {parts}, p99 at most {target_ms:g} ms")
    steps: list[Step] = []

    def holds(rate: float) -> bool:
        step = offer(rate)
        failure = step.failure(target_ms)
        steps.append(step)
        echo(step_line(step, failure or "held"))
        return not failure

    found = run_search(search(settings.rate, precision=settings.precision, tries=settings.knee_tries), holds)
    echo(_verdict(found))
    at_knee = [step.p99_ms for step in steps if step.rate == found.held and not step.failure(target_ms)]
    return {
        "shape": "knee",
        "knee": found.held,
        "lowest_failed": found.failed,
        "target_p99_ms": target_ms,
        "p99_ms": at_knee[-1] if at_knee else None,
        "wrong": sum(step.wrong for step in steps),
        "steps": [step.figures() | {"failure": step.failure(target_ms)} for step in steps],
    }


def _verdict(found: Knee) -> str:
    if found.failed is None:
        return f"knee: even {found.held:.2f} requests/s held"
    if not found.held:
        return f"knee: none; not even {found.failed:.2f} requests/s held"
    return f"knee: {found.held:.2f} requests/s held, {found.failed:.2f} did not"
