"""Read the figures for the thresholds from locust's statistics, or from the result of an open-loop shape."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from locust.stats import RequestStats, calculate_response_time_percentile

from .outcomes import WRONG, result_of
from .thresholds import RunFigures


def figures_of_stats(stats: RequestStats) -> RunFigures:
    """Return the figures of a closed-loop run, including workers.

    Locust rounds times above 100 ms to two digits.
    """
    counts: Counter[str] = Counter()
    times_ms: Counter[int] = Counter()
    for (name, _), entry in stats.entries.items():
        counts[result_of(name)] += entry.num_requests
        if entry.num_failures == 0:
            times_ms.update(entry.response_times)
    right = sum(times_ms.values())
    seconds = (stats.last_request_timestamp or 0.0) - stats.start_time
    return RunFigures(
        requests=stats.num_requests,
        failed=stats.num_failures,
        wrong=counts[WRONG],
        p99_ms=float(calculate_response_time_percentile(times_ms, right, 0.99)) if right else math.nan,
        rate=right / seconds if seconds > 0 else 0.0,
    )


def figures_of_knee(found: dict[str, Any]) -> RunFigures:
    """Return the figures of the step at the knee. Failures above the knee are expected."""
    p99_ms = found["p99_ms"]
    return RunFigures(
        requests=1,
        failed=0 if found["knee"] else 1,
        wrong=found["wrong"],
        p99_ms=math.nan if p99_ms is None else p99_ms,
        rate=found["knee"],
    )


def figures_of_overload(found: dict[str, Any]) -> RunFigures:
    """Return the figures of an overload, without rejections as failures."""
    p99_ms = found["p99_ms"]
    return RunFigures(
        requests=found["offered"],
        failed=found["wrong"] + found["late"] + found["error"] + found["unsent"],
        wrong=found["wrong"],
        p99_ms=math.nan if p99_ms is None else p99_ms,
        rate=found["goodput"],
    )
