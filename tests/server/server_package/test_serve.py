"""`tritonclip-server serve` as a process: a checkpoint, a repository with mutual TLS; and the probe."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc

from tests.helpers.servers import DEMO_CHECKPOINT
from tests.helpers.waiting import wait_until
from tritonclip import Client
from tritonclip_server.serving.launcher import free_port
from tritonclip_server.serving.metrics import read_progress
from tritonclip_server.serving.probe import probe

COMMAND = [str(Path(sys.executable).with_name("tritonclip-server")), "serve"]
PORTS = [f"--{name}-port=0" for name in ("http", "grpc", "metrics")]
HOPELESS_S = 600


def text_embeds(url):
    text = tritonclient.grpc.InferInput("text", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([[b"a red circle"]], object))
    with tritonclient.grpc.InferenceServerClient(url) as client:
        return client.infer("clip_text_embedding", [text]).as_numpy("text_embeds")


def test_checkpoint_is_prepared_and_served_from_another_directory(servers, tmp_path):
    servers.command("serve CHECKPOINT")
    options = ["--set", "vision_encoder.compile=off", "--precision", "float32", *PORTS]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "TRITONCLIP_CACHE_DIR": ""}
    process = subprocess.Popen(
        [*COMMAND, str(DEMO_CHECKPOINT), *options, "--log-format", "text"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    lines = []
    try:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if found := re.match(r"ready: grpc (\S+),", line):
                ready = found
                assert text_embeds(ready[1]).shape == (1, 1, 512)
                process.send_signal(signal.SIGTERM)
        assert process.wait(HOPELESS_S) == 0
    finally:
        process.kill()
        process.stdout.close()
    profile, preparing, written, loading, _, model, hint, stopped = lines
    (repository,) = (tmp_path / "cache" / "tritonclip" / "repositories").iterdir()
    assert profile.startswith("profile ")
    assert preparing == f"preparing {DEMO_CHECKPOINT} in {repository}"
    assert written.startswith(f"{repository}: version 1 holds {DEMO_CHECKPOINT} (")
    assert loading == f"loading the models of {repository}"
    assert re.fullmatch(rf"model: {DEMO_CHECKPOINT}, float32, eager", model)
    assert hint == f"try: tritonclip classify photo.jpg cat dog --url {ready[1]}"
    assert stopped == "stopped on SIGTERM"


def test_mutual_tls_is_probed_without_a_restart_and_the_log_is_json(
    servers, certificates, demo_repository, tmp_path, monkeypatch
):
    servers.command("serve with mutual TLS, frequent probes and a log in JSON")
    monkeypatch.setenv("OMP_DISPLAY_ENV", "TRUE")
    options = ["--tls-cert", certificates.certificate, "--tls-key", certificates.key]
    options += ["--tls-client-ca", certificates.ca, "--log-format", "json"]
    options += ["--probe-interval", "0.1", "--probe-failures", "1", "--probe-timeout", str(HOPELESS_S)]
    log = tmp_path / "log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [*COMMAND, str(demo_repository), *options, *PORTS],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            url, metrics_url = ready_addresses(process, log)
            with Client(f"grpcs://{url}", ca_file=certificates.ca, **certificates.of_client) as client:
                assert client.embed_texts("a", timeout_s=60).shape == (512,)
            wait_for_probes(metrics_url, 3)  # the supervisor has no certificate
        finally:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=HOPELESS_S)
    assert (process.returncode, output) == (0, "")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"time", "level", "source", "message"} <= set.intersection(*map(set, entries))
    by_source = {entry["source"].partition(":")[0] for entry in entries}
    assert {"serve", "server.cc", "model_lifecycle.cc", "metrics.py"} <= by_source
    messages = [entry["message"] for entry in entries]
    assert "successfully loaded 'clip_zero_shot'" in messages
    assert "tls: only gRPC has TLS; HTTP and metrics listen without TLS on 127.0.0.1" in messages
    # The threads of the three models with torch sleep while they wait: spinning ones starve each other.
    assert sum("OMP_WAIT_POLICY = 'PASSIVE'" in message for message in messages) == 3
    assert not [message for message in messages if "restart" in message]
    assert messages[-1] == "stopped on SIGINT"


def test_gateway_runs_beside_the_server_and_one_signal_stops_both(servers, demo_repository):
    servers.command("serve with a gateway that is killed once")
    port = free_port("127.0.0.1")
    options = ["--gateway", "--gateway-port", str(port), "--gateway-options", "--max-images 3"]
    page = f"http://127.0.0.1:{port}/"
    with subprocess.Popen(
        [*COMMAND, str(demo_repository), *options, *PORTS, "--log-format", "text"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            lines = iter(process.stdout.readline, "")
            assert f"page: {page}, REST API: {page}docs\n" in lines
            with urllib.request.urlopen(f"{page}v1/info") as reply:
                assert json.load(reply)["max_images"] == 3
            gateway = next(
                one for one in psutil.Process(process.pid).children() if "gateway" in one.cmdline()
            )
            gateway.kill()
            wait_until(lambda: answers(page), "the gateway was not started again", HOPELESS_S)
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=HOPELESS_S)
    assert process.returncode == 0
    assert "supervisor: the gateway exited with code -9; starting it again" in errors
    assert not answers(page)


def test_gateway_port_in_use_is_reported_before_the_server_starts(demo_repository):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        command = [*COMMAND, str(demo_repository), "--gateway", "--gateway-port", str(port), *PORTS]
        done = subprocess.run([*command, "--log-format", "text"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    cause = f"cannot bind the gateway to 127.0.0.1:{port}: process {os.getpid()} "
    assert done.stderr.startswith(f"error: {cause}"), done.stderr
    assert done.stderr.rstrip().endswith("another port with --gateway-port (0 picks a free one)")


def answers(url):
    try:
        urllib.request.urlopen(url).close()
    except OSError:
        return False
    return True


def ready_addresses(process, log):
    """Wait until a server is ready, and return its addresses of gRPC and of the metrics."""
    ready = re.compile(r"ready: grpc (\S+), http \S+, metrics ([^\s\",]+)")

    def found():
        assert process.poll() is None, log.read_text()
        return ready.search(log.read_text())

    wait_until(found, log.read_text, HOPELESS_S)
    return found().groups()


def wait_for_probes(metrics_url, count):
    """Wait until a server has answered this many probes; nobody else may call `similarity`."""

    def finished():
        with urllib.request.urlopen(f"http://{metrics_url}/metrics") as reply:
            return read_progress(reply.read().decode())["similarity"].finished

    # The counter counts each request and each execution.
    wait_until(lambda: finished() >= 2 * count, "the server was not probed", HOPELESS_S)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_probe_of_a_healthy_server_is_ok(server, protocol):
    url = server.grpc_url if protocol == "grpc" else f"http://{server.http_url}"
    assert probe(url, timeout_s=60).outcome == "ok"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_probe_of_a_stopped_server_fails(server, protocol):
    url = server.grpc_url if protocol == "grpc" else f"http://{server.http_url}"
    os.kill(server.pid, signal.SIGSTOP)
    try:
        result = probe(url, timeout_s=0.2)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert result.outcome == "failed"
    assert probe(url, timeout_s=60).outcome == "ok"
