"""Open-loop arrivals follow a Poisson process even if the server is slow; pending requests are parsed."""

from __future__ import annotations

import itertools
import random
import statistics

import gevent
import pytest
from loadtest.load.answers import FirstAnswers
from loadtest.load.arrivals import GreenletPool, arrival_offsets, run_step
from loadtest.load.overload import metrics_address, parse_pending
from loadtest.load.settings import LoadSettings
from loadtest.load.workload import Job

METRICS = """\
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="vision_encoder",version="1"} 12
nv_inference_pending_request_count{model="similarity",version="1"} 0
nv_inference_count{model="vision_encoder",version="1"} 77
"""
JOB = Job("embed_texts", texts=("one",))


class SlowCaller:
    """Caller that fails after a delay, and counts open callers and concurrent calls."""

    opened = waiting = most_waiting = 0

    def __init__(self) -> None:
        SlowCaller.opened += 1

    def send(self, job: Job) -> object:
        SlowCaller.waiting += 1
        SlowCaller.most_waiting = max(SlowCaller.most_waiting, SlowCaller.waiting)
        gevent.sleep(0.2)
        SlowCaller.waiting -= 1
        raise RuntimeError("slow")

    def close(self) -> None:
        SlowCaller.opened -= 1


def offer(rate: float, max_in_flight: int):
    settings = LoadSettings(warmup_s=0.1, measure_s=0.9, deadline_s=30)
    pool = GreenletPool(SlowCaller, FirstAnswers(1, 1), lambda outcome: None, max_in_flight)
    try:
        return run_step(pool, itertools.repeat(JOB), random.Random(3), rate, settings)
    finally:
        pool.close()


def test_arrivals_are_a_poisson_process():
    offsets = list(arrival_offsets(random.Random(0), rate=50, duration_s=200))
    gaps = [after - before for before, after in itertools.pairwise(offsets)]
    assert len(offsets) / 200 == pytest.approx(50, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)
    assert offsets == sorted(offsets)
    assert offsets[-1] < 200


def test_arrivals_do_not_wait_for_answers():
    SlowCaller.most_waiting = 0
    offsets = list(arrival_offsets(random.Random(3), 100, 1.0))
    step = offer(rate=100, max_in_flight=1000)
    assert step.offered == step.error == sum(offset >= 0.1 for offset in offsets)
    assert SlowCaller.most_waiting > 5
    assert SlowCaller.opened == 0


def test_requests_beyond_the_limit_are_counted_but_not_sent():
    SlowCaller.most_waiting = 0
    step = offer(rate=100, max_in_flight=2)
    assert step.unsent > 0
    assert step.offered == step.unsent + step.error
    assert SlowCaller.most_waiting == 2


def test_pending_requests_are_parsed_by_model():
    assert parse_pending(METRICS) == {"vision_encoder": 12, "similarity": 0}
    assert metrics_address("host:8002") == "http://host:8002/metrics"
    assert metrics_address("http://host/metrics") == "http://host/metrics"
