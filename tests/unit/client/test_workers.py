"""Threads of bulk runs: order, errors and context."""

from __future__ import annotations

import contextvars
import threading
import time

import pytest

from tritonclip._process.workers import Workers

ENDS_S = 120.0


def test_results_come_in_order_from_several_threads() -> None:
    meet = threading.Barrier(2, timeout=ENDS_S)

    def slow_first(value: int) -> int:
        if value < 2:
            meet.wait()
        time.sleep(0.05 * (value == 0))
        return 10 * value

    with Workers(slow_first, 2) as workers:
        for value in range(5):
            workers.submit(value)
        assert workers.waiting == 5
        assert [workers.take_next() for _ in range(5)] == [0, 10, 20, 30, 40]
        assert workers.waiting == 0


def test_an_error_is_raised_in_its_turn() -> None:
    with Workers(lambda value: 12 // value, 2) as workers:
        for value in (3, 0, 4):
            workers.submit(value)
        assert workers.take_next() == 4
        with pytest.raises(ZeroDivisionError):
            workers.take_next()
        assert workers.take_next() == 3


def test_functions_see_the_callers_context() -> None:
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("the caller's")
    with Workers(lambda _: variable.get(), 1) as workers:
        workers.submit(0)
        assert workers.take_next() == "the caller's"


def test_inputs_that_no_thread_has_begun_are_dropped_at_the_end() -> None:
    begun: list[int] = []
    begin, go_on = threading.Event(), threading.Event()

    def wait(value: int) -> None:
        begun.append(value)
        begin.set()
        go_on.wait(ENDS_S)

    with Workers(wait, 1) as workers:
        for value in range(3):
            workers.submit(value)
        begin.wait(ENDS_S)
        threading.Timer(0.1, go_on.set).start()
    assert begun == [0]
