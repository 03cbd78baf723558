"""Figures of one open-loop step: offered requests, their outcomes, and latencies. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .outcomes import DEADLINE, ERROR, FAILURES, REJECTED, RIGHT, WRONG, Outcome

UNSENT = "unsent"


@dataclass(frozen=True)
class StepResult:
    """Figures of the requests that were due in the measured period of a step.

    Attributes:
        rate: Target rate, requests/s.
        measure_s: Length of the measured period.
        offered: Number of requests that were due.
        right: Requests with the right answer.
        rejected: Requests that the server rejected.
        late: Requests without an answer within the deadline.
        wrong: Requests with a wrong answer.
        error: Requests that failed in another way.
        unsent: Requests that were not sent because too many were in flight.
        p50_ms: Median latency of right answers, from when each was due. nan if there are none, as for all
            latencies.
        p99_ms: 99th percentile of the same latencies.
        rejected_p99_ms: 99th percentile of the latencies of rejections.
        start_p99_ms: 99th percentile of the load generator's own delays. Near `p99_ms`, the generator is the
            limit.
    """

    rate: float
    measure_s: float
    offered: int
    right: int
    rejected: int
    late: int
    wrong: int
    error: int
    unsent: int
    p50_ms: float
    p99_ms: float
    rejected_p99_ms: float
    start_p99_ms: float

    @property
    def goodput(self) -> float:
        """Right answers per second."""
        return self.right / self.measure_s

    def failure(self, target_p99_ms: float) -> str:
        """Return why the server did not sustain the rate, or an empty string if it did."""
        counts = {REJECTED: self.rejected, DEADLINE: self.late, WRONG: self.wrong, ERROR: self.error}
        counts[UNSENT] = self.unsent
        failed = [f"{count} {name}" for name, count in counts.items() if count]
        if failed:
            return ", ".join(failed)
        if not self.p99_ms <= target_p99_ms:
            return f"p99 over {target_p99_ms:g} ms"
        return ""

    def figures(self) -> dict[str, Any]:
        """Return all figures by name, for JSON, with None for nan."""
        values = asdict(self) | {"goodput": self.goodput}
        return {name: None if math.isnan(value) else round(value, 3) for name, value in values.items()}


def summarize(
    outcomes: Sequence[Outcome],
    *,
    rate: float,
    measure_s: float,
    unsent: int,
    start_delays_ms: Sequence[float],
) -> StepResult:
    """Return the figures of a step.

    Args:
        outcomes: Outcomes of the requests that were sent.
        rate: Target rate, requests/s.
        measure_s: Length of the measured period.
        unsent: Number of requests that were due but not sent.
        start_delays_ms: Delay of each request's start.
    """
    counts = Counter(outcome.result for outcome in outcomes)
    times = {name: [o.latency_ms for o in outcomes if o.result == name] for name in (RIGHT, *FAILURES)}
    return StepResult(
        rate=rate,
        measure_s=measure_s,
        offered=len(outcomes) + unsent,
        right=counts[RIGHT],
        rejected=counts[REJECTED],
        late=counts[DEADLINE],
        wrong=counts[WRONG],
        error=counts[ERROR],
        unsent=unsent,
        p50_ms=percentile(times[RIGHT], 50),
        p99_ms=percentile(times[RIGHT], 99),
        rejected_p99_ms=percentile(times[REJECTED], 99),
        start_p99_ms=percentile(start_delays_ms, 99),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that `percent` % of the values do not exceed; nan without values."""
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else math.nan


def step_line(step: StepResult, verdict: str) -> str:
    """Format a step as one line of a report."""
    return (
        f"{step.rate:9.2f}/s offered {step.offered:6d}  right {step.right:6d}  "
        f"p50 {step.p50_ms:7.1f} ms  p99 {step.p99_ms:7.1f} ms  "
        f"sent late {step.start_p99_ms:6.1f} ms  {verdict}"
    )
