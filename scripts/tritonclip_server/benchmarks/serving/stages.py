"""Queue and compute time of each stage of the server during a measurement, from Triton's statistics."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tritonclip import Client, ModelStatistics

STAGES = ("text_encoder", "image_preprocess", "vision_encoder", "similarity")
"""Stages of `clip_zero_shot`, in the order in which a request passes through them."""
SETTLE_S = 0.3
"""Delay before a reading, because Triton counts a request after it has sent the response."""

Statistics = Mapping[str, ModelStatistics]


def read_statistics(client: Client) -> Statistics:
    """Read the statistics of the stages since the start of the server."""
    time.sleep(SETTLE_S)
    return {found.name: found for found in client.statistics() if found.name in STAGES}


def means_between(before: Statistics, after: Statistics) -> dict[str, dict[str, float]]:
    """Compute the means of the requests between two readings.

    Returns:
        By stage, `queue_ms` and `compute_ms` per request, and `batch`, the requests per dynamic batch.
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
