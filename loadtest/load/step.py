"""The figures of one open-loop step: what was offered, what became of it, how long it took. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .calls import DEADLINE, ERROR, FAILURES, REFUSED, RIGHT, WRONG, Outcome

UNSENT = "unsent"


@dataclass(frozen=True)
class Step:
    """Figures of the requests that were due in the measured part of a step.

    Attributes:
        rate: Asked for, requests/s.
        measure_s: How long was measured.
        offered: How many requests were due.
        right: Answered rightly.
        refused: Turned away by the server.
        late: Not answered within the deadline.
        wrong: Answered wrongly.
        error: Failed otherwise.
        unsent: Not sent, because as many as are allowed were under way.
        p50_ms: Of the right answers, from when each was due; nan where there are none, as below.
        p99_ms: See `p50_ms`.
        refused_p99_ms: Of the refusals.
        start_p99_ms: How late this process itself sent the requests: near `p99_ms`, it is the limit.
    """

    rate: float
    measure_s: float
    offered: int
    right: int
    refused: int
    late: int
    wrong: int
    error: int
    unsent: int
    p50_ms: float
    p99_ms: float
    refused_p99_ms: float
    start_p99_ms: float

    @property
    def goodput(self) -> float:
        """Right answers/s."""
        return self.right / self.measure_s

    def failure(self, target_p99_ms: float) -> str:
        """Why the rate did not hold; an empty text where it did."""
        counts = {REFUSED: self.refused, DEADLINE: self.late, WRONG: self.wrong, ERROR: self.error}
        counts[UNSENT] = self.unsent
        failed = [f"{count} {name}" for name, count in counts.items() if count]
        if failed:
            return ", ".join(failed)
        if not self.p99_ms <= target_p99_ms:
            return f"p99 over {target_p99_ms:g} ms"
        return ""

    def figures(self) -> dict[str, Any]:
        """All figures by name, for JSON; nan becomes None."""
        values = asdict(self) | {"goodput": self.goodput}
        return {name: None if math.isnan(value) else round(value, 3) for name, value in values.items()}


def summarize(
    outcomes: Sequence[Outcome], *, rate: float, measure_s: float, unsent: int, starts_ms: Sequence[float]
) -> Step:
    """The figures of a step.

    Args:
        outcomes: Of the requests that were sent.
        rate: Asked for, requests/s.
        measure_s: How long was measured.
        unsent: Requests that were due and not sent.
        starts_ms: How late each was sent.
    """
    counts = Counter(outcome.result for outcome in outcomes)
    times = {name: [o.latency_ms for o in outcomes if o.result == name] for name in (RIGHT, *FAILURES)}
    return Step(
        rate=rate,
        measure_s=measure_s,
        offered=len(outcomes) + unsent,
        right=counts[RIGHT],
        refused=counts[REFUSED],
        late=counts[DEADLINE],
        wrong=counts[WRONG],
        error=counts[ERROR],
        unsent=unsent,
        p50_ms=percentile(times[RIGHT], 50),
        p99_ms=percentile(times[RIGHT], 99),
        refused_p99_ms=percentile(times[REFUSED], 99),
        start_p99_ms=percentile(starts_ms, 99),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that `percent` per cent of the values do not exceed; nan where there are none."""
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else math.nan


def step_line(step: Step, verdict: str) -> str:
    """A step as one line of a report."""
    return (
        f"{step.rate:9.2f}/s offered {step.offered:6d}  right {step.right:6d}  "
        f"p50 {step.p50_ms:7.1f} ms  p99 {step.p99_ms:7.1f} ms  "
        f"sent late {step.start_p99_ms:6.1f} ms  {verdict}"
    )
