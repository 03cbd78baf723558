"""Limits on the work of one request."""

import pytest

from clip_common.groups import Elements, RequestError
from clip_common.times import RejectedError, Times, now_us
from clip_work import RequestWork, SkippedError, WorkLimits

LIMITS = WorkLimits(max_pixels=100, max_worker_cpu_s=2.0)
HOUR_US = 3_600_000_000


def work(times=None, is_cancelled=lambda: False):
    now = now_us()
    times = times or Times(now, HOUR_US, now + HOUR_US)
    return RequestWork(Elements([b"a", b"b"], (1, 2), times, is_cancelled), LIMITS)


def test_pixels_are_counted_over_all_images():
    request = work()
    request.take_pixels(60)
    request.take_pixels(40)
    with pytest.raises(
        RequestError, match=r"more than 100 pixels in all images \(max_request_pixels\); split"
    ):
        request.take_pixels(1)


def test_cpu_time_is_counted_over_all_images():
    request = work()
    request.take_cpu(1.5)
    assert request.cpu_left_s == 0.5
    request.take_cpu(1.5)
    assert request.cpu_left_s == 0


def test_images_after_a_failed_one_are_skipped():
    request = work()
    request.begin_image()
    request.begin_image()
    request.fail()
    with pytest.raises(SkippedError):
        request.begin_image()


def test_queue_budget_is_checked_before_the_first_image_only():
    now = now_us()
    late = Times(now - HOUR_US, 1, now + HOUR_US)
    with pytest.raises(RejectedError, match="overloaded"):
        work(late).begin_image()
    request = work(Times(now, HOUR_US, now + HOUR_US))
    request.begin_image()
    request._times = late
    request.begin_image()


def test_deadline_is_checked_before_each_image():
    request = work()
    request.begin_image()
    now = now_us()
    request._times = Times(now - 2, HOUR_US, now - 1)
    with pytest.raises(RejectedError, match="deadline passed"):
        request.begin_image()


def test_caller_is_asked_before_an_image_but_not_before_the_first():
    questions = []
    request = work(is_cancelled=lambda: questions.append(1) or True)
    request.begin_image()
    assert not questions
    request._next_question_us = 0
    with pytest.raises(RejectedError, match="the caller cancelled"):
        request.begin_image()
    assert questions == [1]
