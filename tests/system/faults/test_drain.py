"""SIGTERM to `serve.py` under load: accepted requests are answered, all others can be retried."""

import contextlib
import signal
import time

import pytest

from tests.helpers.waiting import wait_until
from tests.system.faults.callers import FAST, HOPELESS_S, Callers, never_reads, record_callers, serve
from tritonclip import Client, ServerUnavailableError

pytestmark = pytest.mark.slow


def test_stop_under_load_answers_every_accepted_request(servers, own_repository, own_gate, record_property):
    options = ("--probe-interval=3600", f"--drain-timeout={HOPELESS_S}")
    with contextlib.ExitStack() as stack:
        serving = stack.enter_context(serve(servers, "drain: it is stopped", own_repository, *options))
        urls = (serving.grpc_url, f"http://{serving.http_url}")
        clients = [stack.enter_context(Client(url, attempts=1)) for url in urls]
        callers = [stack.enter_context(Callers(url, count=3)) for url in urls]
        with own_gate.closed():
            own_gate.wait_until_it_holds()
            stopped_at = time.monotonic()
            serving.process.send_signal(signal.SIGTERM)
            for client in clients:
                wait_until(lambda client=client: _rejects(client), "the server still accepts", HOPELESS_S)
        assert serving.process.wait(HOPELESS_S) == 0
        for one in callers:  # they reach the closed port
            wait_until(lambda one=one: one.count_of("unavailable"), lambda one=one: str(one.seen), HOPELESS_S)
    in_flight = []
    for one in callers:
        record_callers(record_property, one)
        assert one.others() == []
        assert one.count_of("lost") == 0
        assert not one.wrong
        in_flight += [call.outcome for call in one.seen if call.began < stopped_at < call.ended]
    assert "answered" in in_flight
    assert set(in_flight) <= {"answered", "draining"}


def _rejects(client):
    """Return whether the server rejects a text because it drains, and says so in the deep health check."""
    try:
        client.embed_texts("a text passes no gate")
    except ServerUnavailableError as error:
        assert error.message.startswith("draining: ")
        health = client.health(deep=True)
        assert health.ready  # Triton does not expose its readiness
        assert health.inference == "failed"
        assert health.reason.startswith("draining: ")
        return True
    return False


def test_stop_does_not_wait_for_a_caller_that_never_reads(servers, fault_repository):
    """The stop waits at most `--drain-timeout`."""
    why = "drain: it is stopped while a caller does not read"
    with (
        serve(servers, why, fault_repository, *FAST, "--drain-timeout=2") as serving,
        never_reads(serving.http_url),
    ):
        serving.process.send_signal(signal.SIGTERM)
        assert serving.process.wait(HOPELESS_S) == 0
