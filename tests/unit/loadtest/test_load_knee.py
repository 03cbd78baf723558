"""The knee search against simulated servers, and the figures of a step."""

from __future__ import annotations

import math
import random

import pytest
from loadtest.load.knee import Knee, find_knee, run_search, search
from loadtest.load.outcomes import DEADLINE, REJECTED, RIGHT, Outcome
from loadtest.load.settings import LoadSettings
from loadtest.load.step import percentile, summarize
from loadtest.load.workload import Job


@pytest.mark.parametrize("limit", [0.7, 9.9, 10.0, 37.0, 1234.0])
def test_search_finds_the_knee_with_the_requested_precision(limit: float):
    tried = []
    knee = run_search(search(10, precision=0.05), lambda rate: tried.append(rate) or rate <= limit)
    assert knee.sustained <= limit < knee.failed <= knee.sustained * 1.05
    assert len(tried) < 16


def test_search_with_tries_tolerates_random_failures():
    rng = random.Random(5)
    flaky = lambda rate: rate <= 100 and rng.random() > 0.1  # noqa: E731
    found = [run_search(search(10, tries=3), flaky).sustained for _ in range(20)]
    assert min(found) > 90
    once = [run_search(search(10), flaky).sustained for _ in range(20)]
    assert min(once) < 90


def test_search_ends_if_every_rate_fails_or_is_sustained():
    assert run_search(search(10), lambda rate: False).sustained == 0
    assert run_search(search(10), lambda rate: True) == Knee(81920.0, None)


def simulate_step(rate: float, capacity: float, reject: bool = False):
    """Simulate a step on an M/D/1 server, whose queue grows without bound at its capacity."""
    rng, clock, free, outcomes = random.Random(1), 0.0, 0.0, []
    while clock < 20:
        clock += rng.expovariate(rate)
        if reject and free - clock > 0.3:
            outcomes.append(Outcome(Job("classify"), REJECTED, 1.0))
            continue
        free = max(free, clock) + 1 / capacity
        outcomes.append(Outcome(Job("classify"), RIGHT, (free - clock) * 1000))
    return summarize(outcomes, rate=rate, measure_s=20, unsent=0, start_delays_ms=[0.0])


def test_find_knee_reports_the_knee_of_a_simulated_queue():
    lines = []
    settings = LoadSettings(target_p99_ms=200, rate=5, knee_tries=1)
    found = find_knee(lambda rate: simulate_step(rate, capacity=100), settings, lines.append)
    assert 70 < found["knee"] < 100
    assert found["p99_ms"] <= 200 < simulate_step(found["lowest_failed"], capacity=100).p99_ms
    assert len(lines) == len(found["steps"]) + 2
    assert "p99 over 200 ms" in "\n".join(lines)
    rejecting = find_knee(lambda rate: simulate_step(rate, 100, reject=True), settings, lines.append)
    assert any("rejected" in step["failure"] for step in rejecting["steps"])


def test_percentile_is_a_value_of_the_sample():
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, p) for p in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([7.0], 99) == 7
    assert math.isnan(percentile([], 50))


def test_rejections_do_not_affect_the_latencies_of_answers():
    outcomes = [Outcome(Job("classify"), RIGHT, 100.0)] * 9 + [Outcome(Job("classify"), REJECTED, 1.0)] * 90
    outcomes.append(Outcome(Job("classify"), DEADLINE, 5000.0))
    step = summarize(outcomes, rate=10, measure_s=2, unsent=3, start_delays_ms=[])
    assert (step.offered, step.right, step.rejected, step.late, step.unsent) == (103, 9, 90, 1, 3)
    assert (step.p50_ms, step.p99_ms, step.rejected_p99_ms, step.goodput) == (100, 100, 1, 4.5)
    assert step.failure(500) == "90 rejected, 1 deadline, 3 unsent"
    assert step.figures()["start_p99_ms"] is None
