"""The deep health check, which runs a real inference and checks its answer."""

import json
import subprocess
import sys

import pytest

from tritonclip import Client, InferenceError
from tritonclip._calls import status
from tritonclip.errors import DeadlineExceededError, ServerUnavailableError

MAIN = "from tritonclip._cli.main import main; import sys; sys.exit(main())"


def test_deep_check_of_healthy_server_is_ok(make, url):
    client = make(url)
    health = client.health(deep=True)
    assert health.ok
    assert (health.inference, health.reason) == ("ok", None)
    assert client.health().inference is None


def test_deep_check_is_one_inference_of_the_ensemble(server):
    def done(client):
        return {one.name: one.requests for one in client.statistics()}["clip_zero_shot"]

    with Client(server.grpc_url) as client:
        before = done(client)
        assert client.health(deep=True).ok
        assert client.health().ok
        assert done(client) == before + 1


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_command_reports_the_deep_check(server, protocol):
    url = {"grpc": server.grpc_url, "http": server.http_url}[protocol]
    command = [sys.executable, "-c", MAIN, "health", "--deep", "--url", url, "--protocol", protocol]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    (state,) = json.loads(done.stdout)["endpoints"]
    assert (state["ok"], state["inference"], state["reason"]) == (True, "ok", None)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["inference", "ok"]


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (ServerUnavailableError("overloaded: the request has waited 61 ms"), "overloaded"),
        (ServerUnavailableError("deadline passed: the request came with 0 ms left"), "overloaded"),
        (ServerUnavailableError("deadline cannot be met: the request has waited 5 ms"), "overloaded"),
        (ServerUnavailableError("draining: this server is about to stop"), "failed"),
        (ServerUnavailableError("connection refused"), "failed"),
        (InferenceError("overloaded: is no word of the admission here"), "failed"),
        (DeadlineExceededError("no answer within 1 s"), "timeout"),
    ],
)
def test_error_is_mapped_to_an_outcome(error, meaning):
    assert status.probe_outcome(error) == meaning


def test_scores_that_do_not_sum_to_one_fail_the_check():
    status.check_probe_answer([{"score": 0.75, "label": "red"}, {"score": 0.2499, "label": "blue"}])
    with pytest.raises(InferenceError, match=r"sum to 0\.5, not to 1"):
        status.check_probe_answer([{"score": 0.25, "label": "red"}, {"score": 0.25, "label": "blue"}])
