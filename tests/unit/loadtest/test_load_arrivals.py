"""Open-loop arrivals: a Poisson process that no slow server holds up; and the sampled queues."""

from __future__ import annotations

import itertools
import random
import statistics

import gevent
import pytest
from loadtest.load.answers import FirstAnswers
from loadtest.load.arrivals import Crew, arrival_offsets, run_step
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


class Slow:
    """A caller that takes its time and then fails; counts how many are open and how many wait."""

    opened = waiting = most_waiting = 0

    def __init__(self) -> None:
        Slow.opened += 1

    def send(self, job: Job) -> object:
        Slow.waiting += 1
        Slow.most_waiting = max(Slow.most_waiting, Slow.waiting)
        gevent.sleep(0.2)
        Slow.waiting -= 1
        raise RuntimeError("slow")

    def close(self) -> None:
        Slow.opened -= 1


def offer(rate: float, max_in_flight: int):
    settings = LoadSettings(warmup_s=0.1, measure_s=0.9, deadline_s=30)
    crew = Crew(Slow, FirstAnswers(1, 1), lambda outcome: None, max_in_flight)
    try:
        return run_step(crew, itertools.repeat(JOB), random.Random(3), rate, settings)
    finally:
        crew.close()


def test_arrivals_are_a_poisson_process():
    offsets = list(arrival_offsets(random.Random(0), rate=50, duration_s=200))
    gaps = [after - before for before, after in itertools.pairwise(offsets)]
    assert len(offsets) / 200 == pytest.approx(50, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)
    assert offsets == sorted(offsets)
    assert offsets[-1] < 200


def test_no_arrival_waits_for_the_answer_to_another():
    Slow.most_waiting = 0
    offsets = list(arrival_offsets(random.Random(3), 100, 1.0))
    step = offer(rate=100, max_in_flight=1000)
    assert step.offered == step.error == sum(offset >= 0.1 for offset in offsets)
    assert Slow.most_waiting > 5
    assert Slow.opened == 0


def test_what_is_due_beyond_the_limit_is_counted_and_not_sent():
    Slow.most_waiting = 0
    step = offer(rate=100, max_in_flight=2)
    assert step.unsent > 0
    assert step.offered == step.unsent + step.error
    assert Slow.most_waiting == 2


def test_pending_requests_are_read_by_model():
    assert parse_pending(METRICS) == {"vision_encoder": 12, "similarity": 0}
    assert metrics_address("host:8002") == "http://host:8002/metrics"
    assert metrics_address("http://host/metrics") == "http://host/metrics"
