"""Requests of a batch that can be answered in time, and those that cannot."""

from typing import NamedTuple

import pytest

from clip_common.pace import BATCHES_BEFORE, Pace
from clip_common.times import UNLIMITED, RejectedError, Times

MS = 1000


class Group(NamedTuple):
    times: Times
    size: int = 1


class Clock:
    """A clock that moves only when a batch runs, by `us_per_element`."""

    def __init__(self, us_per_element):
        self.now_us, self.us_per_element = 0, us_per_element

    def __call__(self):
        return self.now_us

    def run(self, groups):
        self.now_us += sum(group.size for group in groups) * self.us_per_element
        return [{"done": group} for group in groups]


def due(ms, size=1, arrival_us=0):
    return Group(Times(arrival_us, 2**61, ms * MS), size)


def warmed_up(us_per_element, size=1000):
    """A pace that has run enough batches at this rate, and its clock, set back to 0."""
    clock = Clock(us_per_element)
    pace = Pace(clock)
    for _ in range(BATCHES_BEFORE):
        pace.run([Group(UNLIMITED, size)], clock.run)
    clock.now_us = 0
    return pace, clock


def test_largest_set_that_ends_in_time_is_run():
    pace, clock = warmed_up(100 * MS)
    groups = [due(ms) for ms in (100, 200, 300, 400, 500, 600)]
    outcomes = pace.run(groups, clock.run)
    answered = [not isinstance(outcome, Exception) for outcome in outcomes]
    assert answered == [False, False, False, True, True, True]
    assert clock.now_us == 300 * MS  # before the deadline of every group that was run
    assert [outcome["done"] for outcome in outcomes[3:]] == groups[3:]


def test_rejection_names_wait_and_deadline():
    pace, clock = warmed_up(100 * MS)
    clock.now_us = 60 * MS
    (outcome,) = pace.run([due(150, arrival_us=10 * MS)], clock.run)
    assert isinstance(outcome, RejectedError)
    assert outcome.reason == "deadline"
    assert "deadline cannot be met: the request has waited 50 ms" in str(outcome)
    assert "its caller allowed 140 ms (deadline_ms)" in str(outcome)


def test_group_that_is_too_large_for_its_deadline_does_not_harm_the_others():
    pace, clock = warmed_up(10 * MS)
    outcomes = pace.run([due(1000, size=256), due(500, size=4), due(500)], clock.run)
    assert isinstance(outcomes[0], RejectedError)
    assert all(isinstance(outcome, dict) for outcome in outcomes[1:])


def test_requests_without_deadline_are_always_run():
    pace, clock = warmed_up(1000 * MS)
    groups = [Group(UNLIMITED, 256), Group(UNLIMITED), due(500)]
    outcomes = pace.run(groups, clock.run)
    assert [isinstance(outcome, dict) for outcome in outcomes] == [True, True, False]


def test_new_instance_rejects_nothing():
    clock = Clock(600 * MS)  # cold: far slower than later
    pace = Pace(clock)
    for _ in range(BATCHES_BEFORE):
        (outcome,) = pace.run([due(1)], clock.run)
        assert isinstance(outcome, dict)


@pytest.mark.parametrize("slow_us", [1000 * MS, 60_000 * MS])
def test_slow_batches_do_not_lower_the_rate(slow_us):
    pace, clock = warmed_up(100 * MS)
    clock.us_per_element = slow_us  # a busy neighbour, a paused machine
    for _ in range(20):
        pace.run([Group(UNLIMITED)], clock.run)
    clock.now_us = 0
    assert pace.choose([due(100)], 0) == [True]
    assert pace.choose([due(99)], 0) == [False]


def test_batch_without_groups_in_time_runs_nothing():
    pace, clock = warmed_up(100 * MS)
    outcomes = pace.run([due(10), due(20)], clock.run)
    assert all(isinstance(outcome, RejectedError) for outcome in outcomes)
    assert clock.now_us == 0


def test_rate_of_small_batches_is_not_extrapolated_to_large_ones():
    """A GPU takes hardly longer for 64 images than for one."""
    pace, _ = warmed_up(5 * MS, size=2)
    assert pace.choose([due(10, size=256)], 0) == [True]
    assert pace.choose([due(9, size=256)], 0) == [False]
