"""What each stage of the server took for the requests of one measurement, from Triton's statistics."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tritonclip import Client, ModelStatistics

STAGES = ("text_encoder", "image_preprocess", "vision_encoder", "similarity")
"""In the order in which a request of `clip_zero_shot` goes through them."""
SETTLE_S = 0.3
"""Triton counts a request after it has answered it."""

Statistics = Mapping[str, ModelStatistics]


def read_statistics(client: Client) -> Statistics:
    """The server's statistics since its start, by model."""
    time.sleep(SETTLE_S)
    return {found.name: found for found in client.statistics() if found.name in STAGES}


def between(before: Statistics, after: Statistics) -> dict[str, dict[str, float]]:
    """Means of the requests between two readings, by stage.

    Returns:
        For each stage `queue_ms` and `compute_ms` of a request, and `batch`: requests in a dynamic batch.
    """
    return {stage: _difference(before[stage], after[stage]) for stage in STAGES}


def _difference(before: ModelStatistics, after: ModelStatistics) -> dict[str, float]:
    requests = max(after.requests - before.requests, 1)

    def mean_ms(name: str) -> float:
        totals = [getattr(one, name) * one.requests for one in (before, after)]
        return max(0.0, totals[1] - totals[0]) / requests

    executions = max(after.executions - before.executions, 1)
    return {
        "queue_ms": mean_ms("queue_ms"),
        "compute_ms": mean_ms("compute_ms"),
        "batch": (after.rows - before.rows) / executions,
    }
