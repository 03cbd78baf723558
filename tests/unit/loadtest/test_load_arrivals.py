"""Open-loop arrivals follow a Poisson process even if the server is slow; pending requests are parsed."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event
from loadtest.load import arrivals
from loadtest.load.answers import FirstAnswers
from loadtest.load.arrivals import GreenletPool, arrival_offsets, run_step, sleep_until
from loadtest.load.overload import metrics_address, parse_pending
from loadtest.load.settings import LoadSettings
from loadtest.load.step import StepResult
from loadtest.load.workload import Job

METRICS = """\
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="vision_encoder",version="1"} 12
nv_inference_pending_request_count{model="similarity",version="1"} 0
nv_inference_count{model="vision_encoder",version="1"} 77
"""
JOB = Job("embed_texts", texts=("one",))
RATE = 100
SETTINGS = LoadSettings(warmup_s=0.1, measure_s=0.9, deadline_s=300)


class HeldCaller:
    """Caller that holds its calls until `release` is set, then fails; counts open callers and held calls."""

    release = Event()
    opened = held = 0

    def __init__(self) -> None:
        HeldCaller.opened += 1

    def send(self, job: Job) -> object:
        HeldCaller.held += 1
        HeldCaller.release.wait(timeout=60)
        raise RuntimeError("held")

    def close(self) -> None:
        HeldCaller.opened -= 1


def jobs(count: int) -> Iterator[Job]:
    """Yield jobs; let the server answer only once the last one is due."""
    for _ in range(count - 1):
        yield JOB
    HeldCaller.release.set()
    yield JOB


def offer(offsets: list[float], max_in_flight: int) -> StepResult:
    HeldCaller.release.clear()
    HeldCaller.held = 0
    pool = GreenletPool(HeldCaller, FirstAnswers(1, 1), lambda outcome: None, max_in_flight)
    try:
        return run_step(pool, jobs(len(offsets)), random.Random(3), RATE, SETTINGS)
    finally:
        pool.close()


@pytest.fixture
def offsets(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Times of arrivals. The step does not sleep until each of them, but lets the calls start."""
    monkeypatch.setattr(arrivals, "sleep_until", lambda time_s: gevent.sleep(0))
    return list(arrival_offsets(random.Random(3), RATE, SETTINGS.warmup_s + SETTINGS.measure_s))


def test_arrivals_are_a_poisson_process():
    offsets = list(arrival_offsets(random.Random(0), rate=50, duration_s=200))
    gaps = [after - before for before, after in itertools.pairwise(offsets)]
    assert len(offsets) / 200 == pytest.approx(50, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)
    assert offsets == sorted(offsets)
    assert offsets[-1] < 200


def test_arrivals_do_not_wait_for_answers(offsets: list[float]):
    step = offer(offsets, max_in_flight=1000)
    assert HeldCaller.held == len(offsets)
    assert step.offered == step.error == sum(offset >= SETTINGS.warmup_s for offset in offsets)
    assert HeldCaller.opened == 0


def test_requests_beyond_the_limit_are_counted_but_not_sent(offsets: list[float]):
    limit = len(offsets) - 5
    step = offer(offsets, max_in_flight=limit)
    assert HeldCaller.held == limit
    assert step.unsent == 5
    assert step.offered == step.unsent + step.error == sum(offset >= SETTINGS.warmup_s for offset in offsets)


def test_sleep_ends_at_the_given_time_and_lets_others_run():
    ran: list[float] = []
    for pause_s in (-1.0, 0.01):
        gevent.spawn(ran.append, pause_s)
        end_s = time.perf_counter() + pause_s
        sleep_until(end_s)
        assert time.perf_counter() >= end_s
    assert ran == [-1.0, 0.01]


def test_pending_requests_are_parsed_by_model():
    assert parse_pending(METRICS) == {"vision_encoder": 12, "similarity": 0}
    assert metrics_address("host:8002") == "http://host:8002/metrics"
    assert metrics_address("http://host/metrics") == "http://host/metrics"
