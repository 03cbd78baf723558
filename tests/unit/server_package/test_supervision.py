"""The rules of the supervisor, with a clock in hand: when to restart, how long to wait, when to give up."""

import pytest

from tritonclip import Health
from tritonclip_server.serving.metrics import Work, inside, moves, read_work, stuck
from tritonclip_server.serving.supervision import Judge, Probe, RestartPolicy, SupervisorOptions

OPTIONS = SupervisorOptions(
    failures=3, stall_s=60, max_restarts=4, window_s=100, first_delay_s=1, max_delay_s=3
)


def probe(at_s, inference="ok", *, moves=False, ready=True):
    health = Health(live=True, ready=ready, models={}, inference=inference, reason=f"it {inference}")
    return Probe(at_s=at_s, health=health, moves=moves)


def silent(at_s):
    return Probe(at_s=at_s, health=None, reason="no answer")


def reasons(*probes):
    judge = Judge(OPTIONS, now_s=0)
    return [judge.reason(one) for one in probes]


def test_a_server_that_answers_is_let_be():
    assert reasons(*(probe(second) for second in range(0, 1000, 5))) == [None] * 200


@pytest.mark.parametrize(
    "failing", [silent, lambda at_s: probe(at_s, "failed"), lambda at_s: probe(at_s, ready=False)]
)
def test_failures_in_a_row_restart_it(failing):
    told = reasons(failing(5), failing(10), probe(15), failing(20), failing(25), failing(30))
    assert told[:5] == [None] * 5
    assert told[5].startswith("3 probes in a row failed, the last one so: ")


def test_the_reason_is_that_of_the_last_probe():
    assert reasons(silent(1), silent(2), probe(3, "failed"))[-1].endswith("it failed")
    assert reasons(probe(1, "failed"), probe(2, "failed"), silent(3))[-1].endswith("no answer")


@pytest.mark.parametrize("busy", ["overloaded", "timeout"])
def test_overload_restarts_nothing_as_long_as_work_is_finished(busy):
    assert reasons(*(probe(second, busy, moves=True) for second in range(0, 1000, 5))) == [None] * 200


@pytest.mark.parametrize("busy", ["overloaded", "timeout"])
def test_a_standstill_restarts_it_however_it_refuses(busy):
    told = reasons(probe(10), *(probe(second, busy) for second in range(15, 75, 5)))
    assert told[:-1] == [None] * 12
    told = reasons(probe(10), probe(40, busy), probe(69.9, busy), probe(70, busy))
    assert told[:3] == [None] * 3
    assert told[3] == f"requests wait and none was finished for 60 s, the last probe so: it {busy}"


def test_work_that_is_finished_now_and_then_ends_a_standstill():
    told = reasons(probe(50, "timeout"), probe(59, "timeout", moves=True), probe(100, "timeout"))
    assert told == [None] * 3


def test_failures_between_overloads_are_not_in_a_row_but_end_no_standstill():
    told = reasons(
        *(
            each(second)
            for second, each in enumerate([silent, silent, lambda at_s: probe(at_s, "timeout")] * 9)
        )
    )
    assert told == [None] * 27
    assert reasons(silent(20), probe(30, "timeout"), silent(40), probe(60, "timeout"))[-1] is not None


def test_restarts_wait_longer_and_longer_and_end():
    policy = RestartPolicy(OPTIONS)
    assert [policy.next_delay_s(second) for second in (0, 5, 10, 15, 20)] == [0, 1, 2, 3, None]
    assert policy.count == 4


def test_restarts_of_long_ago_do_not_count():
    policy = RestartPolicy(OPTIONS)
    assert [policy.next_delay_s(second) for second in (0, 100, 200, 300, 400, 500)] == [0] * 6
    assert [policy.next_delay_s(second) for second in (550, 600, 610)] == [1, 1, 2]


METRICS = """# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
nv_inference_request_success{model="clip_zero_shot",version="1"} 7
nv_inference_request_success{model="vision_encoder",version="1"} 5
nv_inference_request_failure{model="vision_encoder",reason="OTHER",version="1"} 2
nv_inference_request_failure{model="vision_encoder",reason="CANCELED",version="1"} 1
nv_inference_request_failure{model="admission",reason="OTHER",version="1"} 90
nv_inference_exec_count{model="vision_encoder",version="1"} 4
nv_inference_pending_request_count{model="clip_zero_shot",version="1"} 0
nv_inference_pending_request_count{model="vision_encoder",version="1"} 3
nv_inference_pending_request_count{model="admission",version="1"} 8
tritonclip_requests_executing{instance="vision_encoder_0_0",model="vision_encoder"} 2
tritonclip_requests_executing{instance="vision_encoder_0_1",model="vision_encoder"} 1
tritonclip_requests_executing{instance="similarity_0_0",model="similarity"} 0
nv_cpu_utilization 0.5
"""


def test_work_is_read_from_metrics_for_the_models_that_do_it():
    work = read_work(METRICS)
    assert work == {"vision_encoder": Work(inside=6, done=12), "similarity": Work(inside=0, done=0)}
    assert inside(work) == 6


@pytest.mark.parametrize(
    ("before", "now", "stuck_ones", "moving"),
    [
        ({}, {}, [], False),
        ({"a": Work(0, 5)}, {"a": Work(0, 5)}, [], False),
        ({"a": Work(2, 5)}, {"a": Work(2, 6)}, [], True),
        ({"a": Work(2, 5)}, {"a": Work(3, 5)}, ["a"], False),
        ({"a": Work(0, 5)}, {"a": Work(1, 5)}, [], True),  # it has only just come
        ({"a": Work(2, 5), "b": Work(1, 1)}, {"a": Work(2, 9), "b": Work(1, 1)}, ["b"], False),
        ({}, {"a": Work(1, 0)}, [], True),
    ],
)
def test_a_model_is_stuck_if_it_finishes_none_of_its_work(before, now, stuck_ones, moving):
    assert stuck(before, now) == stuck_ones
    assert moves(before, now) is moving
