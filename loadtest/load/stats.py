"""Reads what the thresholds look at from locust's statistics, and from what the open-loop shapes found."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from locust.stats import RequestStats, calculate_response_time_percentile

from .calls import WRONG, result_of
from .thresholds import Figures


def figures_of_stats(stats: RequestStats) -> Figures:
    """Of a closed-loop run, workers included; locust rounds times above 100 ms to two digits."""
    counts: Counter[str] = Counter()
    times_ms: Counter[int] = Counter()
    for (name, _), entry in stats.entries.items():
        counts[result_of(name)] += entry.num_requests
        if entry.num_failures == 0:
            times_ms.update(entry.response_times)
    right = sum(times_ms.values())
    seconds = (stats.last_request_timestamp or 0.0) - stats.start_time
    return Figures(
        requests=stats.num_requests,
        failed=stats.num_failures,
        wrong=counts[WRONG],
        p99_ms=float(calculate_response_time_percentile(times_ms, right, 0.99)) if right else math.nan,
        rate=right / seconds if seconds > 0 else 0.0,
    )


def figures_of_knee(found: dict[str, Any]) -> Figures:
    """Of a search: the step at the knee. The failures beyond it are what the search is for."""
    p99_ms = found["p99_ms"]
    return Figures(
        requests=1,
        failed=0 if found["knee"] else 1,
        wrong=found["wrong"],
        p99_ms=math.nan if p99_ms is None else p99_ms,
        rate=found["knee"],
    )


def figures_of_overload(found: dict[str, Any]) -> Figures:
    """Of an overload, under which refusals are what is wanted."""
    p99_ms = found["p99_ms"]
    return Figures(
        requests=found["offered"],
        failed=found["wrong"] + found["late"] + found["error"] + found["unsent"],
        wrong=found["wrong"],
        p99_ms=math.nan if p99_ms is None else p99_ms,
        rate=found["goodput"],
    )
