"""Arrival time, queue budget and deadline of a request."""

import json

import numpy as np
import pytest

from clip_admission import LONGEST_MS, Limits, read_deadline, stamp
from clip_common.groups import RequestError
from clip_common.times import UNLIMITED, RejectedError, Times, read_times

LIMITS = Limits(queue_budget_ms=500, default_deadline_ms=2000)
MS = 1000


def test_stamp_gives_each_row_the_same_times():
    found = stamp(json.dumps({"deadline_ms": 80, "other": "x"}), 3, LIMITS, now_us=7)
    assert found.dtype == np.int64
    assert found.tolist() == [[7, 500_000, 80_007, 0, 0, 0]] * 3
    assert read_times(found) == Times(7, 500_000, 80_007)


@pytest.mark.parametrize("parameters", ["", "{}", '{"other": 1}', '{"other": "deadline_ms"}'])
def test_request_without_deadline_gets_the_servers_default(parameters):
    assert stamp(parameters, 1, LIMITS, now_us=0)[0, 2] == 2_000_000
    assert read_deadline(parameters, 1e30) == LONGEST_MS


@pytest.mark.parametrize(("value", "expected"), [(1, 1), ("2.5", 2.5), (0.25, 0.25), (10**30, LONGEST_MS)])
def test_numeric_deadline_is_accepted(value, expected):
    assert read_deadline(json.dumps({"deadline_ms": value}), 9.0) == expected


@pytest.mark.parametrize("value", ["soon", "", "nan", "inf", "-inf", True, None, [1], {}])
def test_non_numeric_deadline_is_rejected(value):
    with pytest.raises(RequestError, match="parameter 'deadline_ms' must be a number"):
        read_deadline(json.dumps({"deadline_ms": value}), 9.0)


@pytest.mark.parametrize("value", [0, -1, -(10**30)])
def test_request_that_arrives_without_time_left_is_rejected(value):
    with pytest.raises(
        RejectedError, match="^deadline passed: the request arrived with .* ms left"
    ) as caught:
        stamp(json.dumps({"deadline_ms": value}), 1, LIMITS, now_us=0)
    assert caught.value.reason == "deadline"


TIMES = Times(0, 500 * MS, 2000 * MS)


@pytest.mark.parametrize("now_ms", [0, 499, 500])
def test_work_within_the_queue_budget_is_accepted(now_ms):
    TIMES.check(now_ms * MS)


@pytest.mark.parametrize(
    ("now_ms", "reason", "text"),
    [
        (501, "overload", "overloaded: the request has waited 501 ms; the queue budget is 500 ms"),
        (2001, "deadline", "deadline passed: the request has waited 2001 ms; its caller allowed 2000 ms"),
    ],
)
def test_late_work_is_rejected(now_ms, reason, text):
    with pytest.raises(RejectedError, match=text) as caught:
        TIMES.check(now_ms * MS)
    assert caught.value.reason == reason


def test_unlimited_request_is_never_late():
    UNLIMITED.check(2**60)


NOW = 30 * 24 * 3600 * 1000 * MS
LIMIT = int(LONGEST_MS * MS)


@pytest.mark.parametrize(
    "times",
    [
        stamp("{}", 1, LIMITS, NOW)[0],
        stamp(json.dumps({"deadline_ms": 10**30}), 1, LIMITS, NOW)[0],
        stamp(json.dumps({"deadline_ms": 1e-9}), 1, LIMITS, NOW)[0],
        (NOW - 5 * MS, 500 * MS, NOW, MS, 3 * MS, MS),
        (NOW - LIMIT, 2**61, NOW, 0, 0, 0),
    ],
)
def test_times_that_admission_can_have_made_are_possible(times):
    assert read_times(np.array([times, times])).is_possible(NOW)


@pytest.mark.parametrize(
    "times",
    [
        (1, 1, 1, 1, 1, 1),
        (0, 2**61, 2**61, 0, 0, 0),
        (2**62,) * 6,
        (-(2**62),) * 6,
        (NOW + 1, MS, NOW + 2 * MS, 0, 0, 0),
        (NOW, MS, NOW - 1, 0, 0, 0),
        (NOW, MS, NOW + LIMIT + 1, 0, 0, 0),
        (NOW - LIMIT - 1, MS, NOW, 0, 0, 0),
        (NOW - MS, MS, NOW + MS, MS + 1, 0, 0),
        (NOW - MS, MS, NOW + MS, MS // 2, MS // 2, 1),
        (NOW - MS, MS, NOW + MS, MS, -1, 0),
        (NOW - MS, MS, NOW + MS, 0, 0, -1),
    ],
)
def test_times_that_admission_cannot_have_made_are_impossible(times):
    assert not read_times(np.array([times], np.int64)).is_possible(NOW)


def test_time_spent_working_does_not_count_against_the_queue_budget():
    later = TIMES.after(text_us=100 * MS).after(decode_us=150 * MS).after(encode_us=50 * MS)
    later.check(800 * MS)
    with pytest.raises(RejectedError, match="has waited 501 ms; the queue budget is 500 ms"):
        later.check(801 * MS)
    assert later.deadline_us == TIMES.deadline_us
    assert read_times(later.tensor(2)) == later


def test_timings_add_up_to_the_time_since_the_arrival():
    times = Times(NOW, 500 * MS, NOW + 2000 * MS).after(text_us=1).after(decode_us=20).after(encode_us=300)
    assert times.timings(2, NOW + 5000, score_us=4).tolist() == [[4675, 1, 20, 300, 4]] * 2


def test_timings_of_a_request_without_an_arrival_hold_its_work_only():
    assert UNLIMITED.after(encode_us=300).timings(1, NOW).tolist() == [[0, 0, 0, 300, 0]]
