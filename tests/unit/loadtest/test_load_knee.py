"""The search for the knee, against simulated servers; the figures of a step."""

from __future__ import annotations

import math
import random

import pytest
from loadtest.load.calls import DEADLINE, REFUSED, RIGHT, Outcome
from loadtest.load.find_knee import find_knee
from loadtest.load.knee import Knee, run_search, search
from loadtest.load.settings import LoadSettings
from loadtest.load.step import percentile, summarize
from loadtest.load.workload import Job


@pytest.mark.parametrize("limit", [0.7, 9.9, 10.0, 37.0, 1234.0])
def test_knee_is_found_to_the_precision(limit: float):
    asked = []
    knee = run_search(search(10, precision=0.05), lambda rate: asked.append(rate) or rate <= limit)
    assert knee.held <= limit < knee.failed <= knee.held * 1.05
    assert len(asked) < 16


def test_failures_by_chance_are_tried_again():
    rng = random.Random(5)
    flaky = lambda rate: rate <= 100 and rng.random() > 0.1  # noqa: E731
    found = [run_search(search(10, tries=3), flaky).held for _ in range(20)]
    assert min(found) > 90
    once = [run_search(search(10), flaky).held for _ in range(20)]
    assert min(once) < 90


def test_a_server_that_never_or_always_holds_ends_the_search():
    assert run_search(search(10), lambda rate: False).held == 0
    assert run_search(search(10), lambda rate: True) == Knee(81920.0, None)


def served(rate: float, capacity: float, refuse: bool = False):
    """A step on a simulated server with one queue, M/D/1: the wait grows without bound at its capacity."""
    rng, clock, free, outcomes = random.Random(1), 0.0, 0.0, []
    while clock < 20:
        clock += rng.expovariate(rate)
        if refuse and free - clock > 0.3:
            outcomes.append(Outcome(Job("classify"), REFUSED, 1.0))
            continue
        free = max(free, clock) + 1 / capacity
        outcomes.append(Outcome(Job("classify"), RIGHT, (free - clock) * 1000))
    return summarize(outcomes, rate=rate, measure_s=20, unsent=0, starts_ms=[0.0])


def test_knee_of_a_simulated_queue():
    lines = []
    settings = LoadSettings(target_p99_ms=200, rate=5, knee_tries=1)
    found = find_knee(lambda rate: served(rate, capacity=100), settings, lines.append)
    assert 70 < found["knee"] < 100
    assert found["p99_ms"] <= 200 < served(found["lowest_failed"], capacity=100).p99_ms
    assert len(lines) == len(found["steps"]) + 2
    assert "p99 over 200 ms" in "\n".join(lines)
    refusing = find_knee(lambda rate: served(rate, 100, refuse=True), settings, lines.append)
    assert any("refused" in step["failure"] for step in refusing["steps"])


def test_percentiles_are_values_that_occurred():
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, p) for p in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([7.0], 99) == 7
    assert math.isnan(percentile([], 50))


def test_refusals_do_not_count_among_the_times_of_answers():
    outcomes = [Outcome(Job("classify"), RIGHT, 100.0)] * 9 + [Outcome(Job("classify"), REFUSED, 1.0)] * 90
    outcomes.append(Outcome(Job("classify"), DEADLINE, 5000.0))
    step = summarize(outcomes, rate=10, measure_s=2, unsent=3, starts_ms=[])
    assert (step.offered, step.right, step.refused, step.late, step.unsent) == (103, 9, 90, 1, 3)
    assert (step.p50_ms, step.p99_ms, step.refused_p99_ms, step.goodput) == (100, 100, 1, 4.5)
    assert step.failure(500) == "90 refused, 1 deadline, 3 unsent"
    assert step.figures()["start_p99_ms"] is None
