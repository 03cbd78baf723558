"""Arrival, budget and deadline of a request, and the forecast of its wait for the encoder."""

import json

import numpy as np
import pytest

from clip_admission import LONGEST_MS, Limits, read_deadline, stamp
from clip_common.forecast import Forecast, ProgressWriter
from clip_common.groups import RequestError
from clip_common.times import UNLIMITED, RefusedError, Times, read_times

LIMITS = Limits(queue_budget_ms=500, default_deadline_ms=2000)
MS = 1000


def test_stamp_puts_the_same_times_into_each_row():
    found = stamp(json.dumps({"deadline_ms": 80, "other": "x"}), 3, LIMITS, now_us=7)
    assert found.dtype == np.int64
    assert found.tolist() == [[7, 500_000, 80_007, 0]] * 3
    assert read_times(found) == Times(7, 500_000, 80_007)


@pytest.mark.parametrize("parameters", ["", "{}", '{"other": 1}'])
def test_requests_without_a_deadline_get_the_servers(parameters):
    assert stamp(parameters, 1, LIMITS, now_us=0)[0, 2] == 2_000_000


@pytest.mark.parametrize(("value", "expected"), [(1, 1), ("2.5", 2.5), (0.25, 0.25), (10**30, LONGEST_MS)])
def test_deadlines_are_numbers(value, expected):
    assert read_deadline(json.dumps({"deadline_ms": value}), 9.0) == expected


@pytest.mark.parametrize("value", ["soon", "", "nan", "inf", "-inf", True, None, [1], {}])
def test_other_deadlines_are_refused(value):
    with pytest.raises(RequestError, match="parameter 'deadline_ms' must be the milliseconds"):
        read_deadline(json.dumps({"deadline_ms": value}), 9.0)


@pytest.mark.parametrize("value", [0, -1, -(10**30)])
def test_a_caller_without_time_is_refused_at_the_door(value):
    with pytest.raises(RefusedError, match="^deadline passed: the request came with .* ms left") as caught:
        stamp(json.dumps({"deadline_ms": value}), 1, LIMITS, now_us=0)
    assert caught.value.reason == "deadline"


TIMES = Times(0, 500 * MS, 2000 * MS)


@pytest.mark.parametrize("now_ms", [0, 499, 500])
def test_work_may_begin_within_the_budget(now_ms):
    TIMES.check(now_ms * MS)


@pytest.mark.parametrize(
    ("times", "now_ms", "ahead_ms", "reason", "text"),
    [
        (TIMES, 501, 0, "overload", "overloaded: the request has waited 501 ms, the queue budget is 500 ms"),
        (TIMES, 100, 401, "overload", "waited 100 ms and about 401 ms of work is before it, the queue"),
        (
            TIMES,
            2001,
            0,
            "deadline",
            "deadline passed: the request has waited 2001 ms, its caller gave it 2000",
        ),
        (Times(0, 500 * MS, 50 * MS), 10, 41, "deadline", "deadline cannot be met: .*10 ms and about 41 ms"),
    ],
)
def test_work_is_refused_that_would_begin_too_late(times, now_ms, ahead_ms, reason, text):
    with pytest.raises(RefusedError, match=text) as caught:
        times.check(now_ms * MS, ahead_ms * MS)
    assert caught.value.reason == reason


def test_requests_that_did_not_pass_admission_have_no_limits():
    assert read_times(None) == UNLIMITED
    UNLIMITED.check(2**60)


def test_times_that_a_caller_invented_stay_within_bounds():
    found = read_times(np.array([[2**63 - 1] * 4, [0] * 4], np.int64))
    assert found.after_work(2**40).tensor(1).dtype == np.int64
    assert read_times(np.array([[-5] * 4], np.int64)) == Times(0, 0, 0, 0)


@pytest.fixture
def encoder(tmp_path):
    """An instance that has encoded 10 images in 100 ms."""
    writer = ProgressWriter(tmp_path / "progress_1_encoder_0")
    writer.begin(0, 10, now=0)
    writer.end(now=100 * MS)
    return writer


def arriving(ms):
    return Times(ms * MS, 500 * MS, (ms + 2000) * MS)


def test_the_wait_is_what_was_handed_on_and_not_taken_up(tmp_path, encoder):
    forecast = Forecast(tmp_path / "progress_1_*", shares=1)
    assert forecast.ahead_us(100 * MS) == 0
    for ms in (101, 102, 103):
        forecast.admit(arriving(ms), 8, now=103 * MS)
    assert forecast.ahead_us(103 * MS) == pytest.approx(240 * MS)
    encoder.begin(102 * MS, 16, now=110 * MS)  # takes up two of them
    assert forecast.ahead_us(110 * MS) == pytest.approx((80 + 160) * MS)
    assert forecast.ahead_us(150 * MS) == pytest.approx((80 + 120) * MS)
    encoder.end(now=270 * MS)
    assert forecast.ahead_us(270 * MS) == pytest.approx(80 * MS)


def test_a_request_is_refused_that_would_wait_too_long_and_does_not_count(tmp_path, encoder):
    forecast = Forecast(tmp_path / "progress_1_*", shares=1)
    forecast.admit(arriving(100), 51, now=100 * MS)  # large, but the first
    for _ in range(3):
        with pytest.raises(RefusedError, match="about 510 ms of work is before it"):
            forecast.admit(arriving(100), 1, now=100 * MS)
    assert forecast.ahead_us(100 * MS) == pytest.approx(510 * MS)


def test_requests_lost_on_the_way_stop_counting_when_their_time_is_over(tmp_path, encoder):
    forecast = Forecast(tmp_path / "progress_1_*", shares=1)
    forecast.admit(arriving(100), 40, now=100 * MS)
    assert forecast.ahead_us(600 * MS) == pytest.approx(400 * MS)
    assert forecast.ahead_us(601 * MS) == 0


def test_times_that_a_caller_invented_do_not_count_for_ever(tmp_path, encoder):
    forecast = Forecast(tmp_path / "progress_1_*", shares=1)
    forecast.admit(Times(2**61, 2**61, 2**61), 1000, now=100 * MS)
    with pytest.raises(RefusedError):
        forecast.admit(arriving(200), 1, now=200 * MS)
    forecast.admit(arriving(60_200), 1, now=60_200 * MS)


def test_the_rate_follows_the_encoder(tmp_path, encoder):
    forecast = Forecast(tmp_path / "progress_1_*", shares=1)
    for start in range(200, 6200, 200):  # five times as slow from now on
        encoder.begin(start * MS, 4, now=start * MS)
        encoder.end(now=(start + 200) * MS)
    forecast.admit(arriving(6500), 4, now=6500 * MS)
    assert forecast.ahead_us(6500 * MS) == pytest.approx(200 * MS, rel=0.05)


def test_several_instances_share_the_work(tmp_path, encoder):
    other = ProgressWriter(tmp_path / "progress_1_encoder_1")
    other.begin(0, 10, now=0)
    other.end(now=100 * MS)
    ProgressWriter(tmp_path / "progress_2_encoder_0").begin(900 * MS, 1, now=0)  # of another version
    forecast = Forecast(tmp_path / "progress_1_*", shares=2)
    forecast.admit(arriving(100), 10, now=100 * MS)
    assert forecast.ahead_us(100 * MS) == pytest.approx(100 * MS)  # 2 x 10 images at 0.2 a millisecond
    encoder.begin(90 * MS, 10, now=100 * MS)
    assert forecast.ahead_us(100 * MS) == pytest.approx(100 * MS)  # the other instance is free


def test_instances_are_found_when_they_start_and_forgotten_when_they_end(tmp_path):
    forecast = Forecast(tmp_path / "progress_1_*", shares=1)
    forecast.admit(arriving(0), 1000, now=0)
    assert forecast.ahead_us(0) == 0
    writer = ProgressWriter(tmp_path / "progress_1_encoder_0")
    writer.begin(2**62, 10, now=0)  # a caller's own invention
    writer.end(now=100 * MS)
    forecast.admit(arriving(1000), 10, now=1000 * MS)
    assert forecast.ahead_us(1000 * MS) == pytest.approx(100 * MS)
    writer.close()
    assert not list(tmp_path.iterdir())
    assert forecast.ahead_us(2000 * MS) == 0


def test_work_takes_nothing_of_the_queue_budget():
    later = TIMES.after_work(300 * MS)
    later.check(800 * MS)
    with pytest.raises(RefusedError, match="has waited 501 ms, the queue budget is 500 ms"):
        later.check(801 * MS)
    assert later.deadline_us == TIMES.deadline_us
    assert read_times(later.tensor(2)) == later
