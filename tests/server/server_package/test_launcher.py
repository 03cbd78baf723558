"""The launcher and `serve`: rejected arguments, cleanup, and a stop that loses no request."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.calls import together
from tests.helpers.pictures import encode, noise
from tests.helpers.servers import ROOT, run_script
from tests.helpers.waiting import wait_until
from tritonclip import Client, ServerUnavailableError
from tritonclip_server.serving import launcher, processes
from tritonclip_server.serving.launcher import (
    EmbeddedTriton,
    LaunchError,
    ServerOptions,
    remove_stale_regions,
)

ANY_PORT = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)


def python_models(repository):
    """Return the Python models, which have one process each."""
    return [path.parents[1].name for path in repository.glob("*/1/model.py")]


def regions():
    memory = launcher.SHARED_MEMORY
    return set(memory.glob(launcher.REGION_PATTERN))


def regions_of(pid):
    """Return the regions of shared memory that a server has mapped; other servers may run too."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {region for region in regions() if region.name in maps}


def test_stop_leaves_no_process_and_no_shared_memory(demo_repository):
    with EmbeddedTriton(demo_repository, ANY_PORT) as server:
        pid = server.pid
        assert set(server.stubs().values()) == set(python_models(demo_repository))
        own = regions_of(pid)
        assert len(own) == len(server.stubs())
        with Client(server.grpc_url) as client:
            assert client.health().ok
    assert not processes.stubs(pid)
    assert not own & regions()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with Client(server.grpc_url) as client, pytest.raises(ServerUnavailableError):
        client.health(timeout_s=2)


def test_two_servers_run_at_the_same_time(server, demo_repository, monkeypatch):
    monkeypatch.setenv("OMP_DISPLAY_ENV", "TRUE")
    with EmbeddedTriton(demo_repository, ANY_PORT) as other:
        # The threads of both encoders sleep while they wait: spinning ones starve each other on busy cores.
        assert sum("OMP_WAIT_POLICY = 'PASSIVE'" in line for line in other.log) == 2
        for each in (server, other):
            with Client(each.grpc_url) as client:
                assert client.health().ok
    with Client(server.grpc_url) as client:
        assert client.classify(encode(noise(64, 64), "PNG"), ["cat"])


def test_further_flags_come_last_and_unknown_ones_are_reported(demo_repository):
    options = replace(ANY_PORT, flags={"log-verbose": "1", "no-such-flag": "yes"})
    server = EmbeddedTriton(demo_repository, options)
    # The server exits at the first unknown flag, so it knows those before.
    with pytest.raises(LaunchError, match="unrecognized option '--no-such-flag=yes'$"):
        server.start()


def test_model_that_does_not_load_fails_the_start_with_its_reason(demo_repository, tmp_path):
    broken = shutil.copytree(demo_repository, tmp_path / "models")
    (broken / "similarity" / "1" / "similarity.json").write_text("{}")
    server = EmbeddedTriton(broken, ANY_PORT)
    with pytest.raises(LaunchError, match="(?s)exited while it was loading.*logit_scale"):
        server.start()
    assert not remove_stale_regions()


def test_directory_without_models_is_rejected(tmp_path):
    with pytest.raises(
        LaunchError, match="is not a model repository: write one with `tritonclip-server prepare`"
    ):
        EmbeddedTriton(tmp_path, ANY_PORT).start()


def test_port_in_use_is_reported(demo_repository):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(LaunchError, match=rf"cannot bind gRPC to 127\.0\.0\.1:{port} .*in use"):
            EmbeddedTriton(
                demo_repository, ServerOptions(http_port=0, grpc_port=port, metrics_port=0)
            ).start()


def test_only_unmapped_shared_memory_is_removed(server):
    in_use = regions()
    stale = launcher.SHARED_MEMORY / f"triton_python_backend_shm_region_{uuid.uuid4()}"
    stale.write_bytes(b"left by a server that was killed")
    assert stale.name in remove_stale_regions()
    assert not stale.exists()
    assert in_use <= regions()


@pytest.fixture(scope="module")
def patient_repository(prepare):
    """Refuses nothing for its wait, however slow the machine is."""
    return prepare(
        "scripts/demo/checkpoint", "--precision", "float32", "--set", "admission.queue_budget_ms=600000"
    )


@pytest.fixture
def serving(patient_repository):
    """`serve.py` as a process, and the addresses (gRPC, metrics) that it printed once it was ready."""
    command = [sys.executable, "scripts/serve.py", str(patient_repository)]
    command += [f"--{name}-port=0" for name in ("http", "grpc", "metrics")]
    command += ["--probe-interval=600"]  # only what the tests send is counted
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    line = process.stdout.readline()
    yield process, *re.search(r"ready: grpc (\S+), http \S+, metrics (\S+)", line).groups()
    if process.poll() is None:
        process.terminate()
    process.wait(30)
    process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_exits_with_code_0_on_a_signal(serving, number):
    process, url, _ = serving
    with Client(url) as client:
        assert client.health().ok
    process.send_signal(number)
    assert process.wait(30) == 0
    assert f"stopped on {number.name}" in process.stdout.read()
    with Client(url) as client, pytest.raises(ServerUnavailableError):
        client.health(timeout_s=2)


ADMITTED = re.compile(r'^nv_inference_request_success\{model="admission",.*\} (\S+)$', re.MULTILINE)


def wait_until_admitted(metrics_url, requests):
    """Waits until the server has let in so many requests."""

    def admitted():
        with urllib.request.urlopen(f"http://{metrics_url}/metrics") as reply:
            return float(ADMITTED.search(reply.read().decode())[1])

    wait_until(lambda: admitted() >= requests, f"fewer than {requests} requests were admitted", 60)


def test_stop_waits_for_requests_in_flight(serving):
    """Each call spends longer in one step than the launcher waits for quiet."""
    process, url, metrics_url = serving
    images = [encode(noise(1500, 1500, seed), "JPEG", quality=85) for seed in range(2)] * 20

    def call(index):
        if index == 0:
            wait_until_admitted(metrics_url, requests=3)
            process.send_signal(signal.SIGTERM)
            return process.wait(60)
        with Client(url, timeout_s=60, attempts=1) as client:
            return client.embed_images(images).shape

    assert together(4, call) == [0, (40, 512), (40, 512), (40, 512)]


def test_serve_reports_a_wrong_source_in_one_line(tmp_path):
    done = run_script("serve.py", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path} is not a model repository")
