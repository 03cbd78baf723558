"""SIGTERM to `serve.py` under load: accepted requests are answered, all others can be retried."""

import signal
import time

import pytest

from tests.helpers.pictures import encode, noise
from tests.system.faults.callers import FAST, Callers, never_reads, record_callers, serve
from tritonclip import Client, ServerUnavailableError

pytestmark = pytest.mark.slow
LARGE = [encode(noise(1500, 1500, seed), "JPEG", quality=85) for seed in range(2)] * 10


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_stop_under_load_answers_every_accepted_request(fault_repository, protocol, record_property):
    with serve(fault_repository, *FAST) as serving:
        url = f"http://{serving.http_url}" if protocol == "http" else serving.grpc_url
        with (
            Callers(url, count=6) as small,
            Callers(url, count=3, pictures=LARGE) as large,
            Client(url, attempts=1) as client,
        ):
            stopped_at = time.monotonic()
            serving.process.send_signal(signal.SIGTERM)
            rejection = _first_rejection(client)
            assert serving.process.wait(60) == 0
            record_property("stopped after (s)", time.monotonic() - stopped_at)
            time.sleep(1)  # callers also reach the closed port
    assert rejection.startswith("draining: ")
    for callers in (small, large):
        record_callers(record_property, callers)
        assert callers.others() == []
        assert callers.count_of("lost") == 0
        assert not callers.wrong
        in_flight = [one.outcome for one in callers.seen if one.began < stopped_at < one.ended]
        assert in_flight
        assert set(in_flight) <= {"answered", "draining"}
    assert "answered" in {one.outcome for one in large.seen if one.began < stopped_at < one.ended}
    assert small.count_of("draining") > 0
    assert small.count_of("unavailable") > 0


def _first_rejection(client):
    """Return the reason of the first deep health check that a draining server rejects."""
    for _ in range(200):
        try:
            health = client.health(deep=True)
        except ServerUnavailableError:
            break
        if not health.ok:
            assert health.inference == "failed"
            assert health.ready  # Triton does not expose its readiness
            return health.reason
    pytest.fail("the server exited before it rejected a request")


def test_stop_does_not_wait_for_a_caller_that_never_reads(fault_repository):
    """The stop waits at most `--drain-timeout`."""
    with serve(fault_repository, *FAST, "--drain-timeout=2") as serving, never_reads(serving.http_url):
        serving.process.send_signal(signal.SIGTERM)
        assert serving.process.wait(60) == 0
