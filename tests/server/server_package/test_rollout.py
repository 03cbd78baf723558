"""A rollout and its rollback under load, and rollouts that are rejected."""

import shutil

import numpy as np
import pytest

from tests.helpers.calls import metric
from tests.helpers.rollouts import (
    CALLERS,
    NEAR,
    Load,
    remove_other_versions,
    run_rollout,
    scores,
    write_other_checkpoint,
)
from tests.helpers.waiting import wait_until
from tritonclip import Client
from tritonclip_server.repository.versions import locked

pytestmark = pytest.mark.variant("explicit")


@pytest.fixture
def repository(server):
    """The server's repository, which holds the first version alone after the test."""
    yield server.repository
    remove_other_versions(server)


@pytest.mark.slow
def test_rollout_and_rollback_under_load_lose_no_request_and_mix_no_versions(server, repository, tmp_path):
    other = write_other_checkpoint(tmp_path / "other")
    processes = len(server.stubs())
    with Client(server.grpc_url, timeout_s=60) as client:
        known = {"old": scores(client)}
        loaded_at = metric(server, "tritonclip_start_time_seconds", model="vision_encoder", version="1")
        with Load(server.grpc_url) as load:
            code, output = run_rollout(server, "deploy", repository, other)
            assert code == 0, output
            known["new"] = scores(client)
            load.wait_for_answers()
            code, back = run_rollout(server, "rollback", repository)
            assert code == 0, back
            load.wait_for_answers()
        assert abs(known["new"] - known["old"]).max() > 100 * NEAR
        assert np.abs(scores(client) - known["old"]).max() < NEAR
    assert not load.failures
    seen = load.versions(known)
    assert set(seen) == {"old", "new"}, seen
    assert min(seen.values()) >= len(CALLERS)
    assert "version 2 loaded next to version 1" in output
    assert "serving version 2\nversion 1 has no requests in flight" in output
    assert "serving version 1\nversion 2 has no requests in flight" in back
    again = metric(server, "tritonclip_start_time_seconds", model="vision_encoder", version="1")
    assert again == loaded_at, "the old version was loaded again"

    code, listing = run_rollout(server, "status", repository)
    assert code == 0
    first, second = listing.splitlines()
    with Client(server.grpc_url) as client:
        served = client.models()[0].identity
    assert first.startswith("version 1: ")
    assert first.endswith(f"scripts/demo/checkpoint (identity {served[:12]}): served, loaded")
    assert second.startswith(f"version 2: {other} (identity ")
    assert second.endswith("): loaded, previously served") and served[:12] not in second

    code, output = run_rollout(server, "retire", repository, "--delete")
    assert code == 0, output
    wait_until(lambda: len(server.stubs()) <= processes, "processes of version 2 are left", 600)
    assert not list(repository.glob("*/2"))
    with Client(server.grpc_url, timeout_s=60) as client:
        assert client.health(deep=True).ok


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["rollback", "--to", "9"], "has no version 9; it has 1"),
        (["rollback"], "the previously served version is unknown; give it with --to"),
        (["deploy", "no/such/checkpoint"], "no/such/checkpoint"),
    ],
)
def test_wrong_argument_is_reported_in_one_line(server, repository, arguments, reason):
    command, *rest = arguments
    code, output = run_rollout(server, command, repository, *rest)
    assert code == 1
    assert output.startswith("error: ") and reason in output and output.count("\n") == 1


def test_rollout_fails_while_another_is_in_progress(server, repository):
    with locked(repository):
        code, output = run_rollout(server, "rollback", repository)
    assert (code, "is in progress; try again when it has finished" in output) == (1, True)


def test_wrong_key_is_reported(server, repository):
    code, output = run_rollout(server, "status", repository, key="wrong")
    assert (code, "give the admin key of this server" in output) == (1, True)


@pytest.mark.variant("float32")
def test_missing_model_control_is_reported(server, tmp_path):
    copy = shutil.copytree(server.repository, tmp_path / "models")
    code, output = run_rollout(server, "rollback", copy, "--to", 1)
    assert code == 1
    assert "start it with --model-control explicit" in output
