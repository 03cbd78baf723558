"""The deep health check, which runs a real inference and checks its answer."""

import json

from tests.helpers.command import run_command
from tests.helpers.network import count_calls
from tritonclip import Client


def test_deep_check_of_healthy_server_is_ok(make, url):
    client = make(url)
    health = client.health(deep=True)
    assert health.ok
    assert (health.inference, health.reason) == ("ok", None)
    assert client.health().inference is None


def test_deep_check_is_one_inference_of_the_ensemble(server):
    with count_calls(server, "grpc") as calls, Client(calls.url) as client:
        assert client.health(deep=True).ok
        assert client.health().ok
    (request,) = calls.bodies
    assert b"clip_zero_shot" in request


def test_command_reports_the_deep_check(server):
    command = ["health", "--deep", "--url", server.grpc_url]
    done = run_command(*command, "--json")
    (state,) = json.loads(done.stdout)["endpoints"]
    assert (done.returncode, state["ok"], state["inference"], state["reason"]) == (0, True, "ok", None)
    assert run_command(*command).stdout.splitlines()[-1].split() == ["inference", "ok"]
