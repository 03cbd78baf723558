"""The rules of the supervisor, with times given by the tests: when to restart, wait and give up."""

import pytest

from tritonclip_server.serving.metrics import (
    ModelProgress,
    is_progressing,
    read_progress,
    stalled_models,
    total_in_flight,
)
from tritonclip_server.serving.probe import ProbeResult
from tritonclip_server.serving.supervisor import ProbeHistory, RestartBackoff, SupervisorOptions

OPTIONS = SupervisorOptions(
    failures=3, stall_s=60, max_restarts=4, window_s=100, first_delay_s=1, max_delay_s=3
)


def probe(at_s, outcome="ok", *, progressing=False, reason=None):
    """A probe: its result, the time at which it ended, and whether requests were completed."""
    return ProbeResult(outcome=outcome, reason=reason or f"it {outcome}"), at_s, progressing


def no_answer(at_s):
    return probe(at_s, "failed", reason="no answer")


def restart_reasons(*probes):
    history = ProbeHistory(OPTIONS, now_s=0)
    return [history.add(result, at_s, progressing=progressing) for result, at_s, progressing in probes]


def test_healthy_server_is_not_restarted():
    assert restart_reasons(*(probe(second) for second in range(0, 1000, 5))) == [None] * 200


@pytest.mark.parametrize(
    "failing",
    [
        no_answer,
        lambda at_s: probe(at_s, "failed"),
        lambda at_s: probe(at_s, "failed", reason="the server is not ready"),
    ],
)
def test_consecutive_failures_restart_the_server(failing):
    reasons = restart_reasons(failing(5), failing(10), probe(15), failing(20), failing(25), failing(30))
    assert reasons[:5] == [None] * 5
    assert reasons[5].startswith("3 consecutive probes failed; last error: ")


def test_restart_reason_is_that_of_the_last_probe():
    assert restart_reasons(no_answer(1), no_answer(2), probe(3, "failed"))[-1].endswith("it failed")
    assert restart_reasons(probe(1, "failed"), probe(2, "failed"), no_answer(3))[-1].endswith("no answer")


@pytest.mark.parametrize("busy", ["overloaded", "timeout"])
def test_overloaded_server_that_completes_requests_is_not_restarted(busy):
    probes = (probe(second, busy, progressing=True) for second in range(0, 1000, 5))
    assert restart_reasons(*probes) == [None] * 200


@pytest.mark.parametrize("busy", ["overloaded", "timeout"])
def test_stalled_server_is_restarted(busy):
    reasons = restart_reasons(probe(10), *(probe(second, busy) for second in range(15, 75, 5)))
    assert reasons[:-1] == [None] * 12
    reasons = restart_reasons(probe(10), probe(40, busy), probe(69.9, busy), probe(70, busy))
    assert reasons[:3] == [None] * 3
    assert reasons[3] == (
        f"no request completed in the last 60 s although requests are queued; last probe: it {busy}"
    )


def test_completed_request_ends_a_stall():
    reasons = restart_reasons(
        probe(50, "timeout"), probe(59, "timeout", progressing=True), probe(100, "timeout")
    )
    assert reasons == [None] * 3


def test_failures_between_overloads_are_not_consecutive_and_do_not_end_a_stall():
    kinds = [no_answer, no_answer, lambda at_s: probe(at_s, "timeout")] * 9
    reasons = restart_reasons(*(kind(second) for second, kind in enumerate(kinds)))
    assert reasons == [None] * 27
    reasons = restart_reasons(no_answer(20), probe(30, "timeout"), no_answer(40), probe(60, "timeout"))
    assert reasons[-1] is not None


def test_restart_delays_grow_until_the_limit():
    backoff = RestartBackoff(OPTIONS)
    assert [backoff.next_delay_s(second) for second in (0, 5, 10, 15, 20)] == [0, 1, 2, 3, None]
    assert backoff.count == 4


def test_restarts_before_the_window_do_not_count():
    backoff = RestartBackoff(OPTIONS)
    assert [backoff.next_delay_s(second) for second in (0, 100, 200, 300, 400, 500)] == [0] * 6
    assert [backoff.next_delay_s(second) for second in (550, 600, 610)] == [1, 1, 2]


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


def test_progress_is_read_for_models_that_execute_requests():
    progress = read_progress(METRICS)
    assert progress == {
        "vision_encoder": ModelProgress(in_flight=6, finished=12),
        "similarity": ModelProgress(in_flight=0, finished=0),
    }
    assert total_in_flight(progress) == 6


@pytest.mark.parametrize(
    ("before", "now", "stalled", "progressing"),
    [
        ({}, {}, [], False),
        ({"a": (0, 5)}, {"a": (0, 5)}, [], False),
        ({"a": (2, 5)}, {"a": (2, 6)}, [], True),
        ({"a": (2, 5)}, {"a": (3, 5)}, ["a"], False),
        ({"a": (0, 5)}, {"a": (1, 5)}, [], True),  # the request has only just arrived
        ({"a": (2, 5), "b": (1, 1)}, {"a": (2, 9), "b": (1, 1)}, ["b"], False),
        ({}, {"a": (1, 0)}, [], True),
    ],
)
def test_model_with_requests_in_flight_and_none_finished_is_stalled(before, now, stalled, progressing):
    earlier, later = (
        {model: ModelProgress(*counts) for model, counts in one.items()} for one in (before, now)
    )
    assert stalled_models(earlier, later) == stalled
    assert is_progressing(earlier, later) is progressing
