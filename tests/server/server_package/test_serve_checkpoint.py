"""`tritonclip-server serve CHECKPOINT` as a process, away from the checkout, and the probe on a server."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc

from tests.helpers.servers import DEMO_CHECKPOINT
from tritonclip_server.serving.probe import probe

COMMAND = [str(Path(sys.executable).with_name("tritonclip-server")), "serve", str(DEMO_CHECKPOINT)]
OPTIONS = ["--set", "vision_encoder.compile=off", "--precision", "float32"]
PORTS = [f"--{name}-port=0" for name in ("http", "grpc", "metrics")]


def serve_and_stop(directory):
    """Serve until the server is ready, embed a text, stop; return the lines of standard output."""
    process = subprocess.Popen(
        [*COMMAND, *OPTIONS, *PORTS],
        cwd=directory,
        env={**os.environ, "XDG_CACHE_HOME": str(directory / "cache"), "TRITONCLIP_CACHE_DIR": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    lines = []
    try:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if ready := re.match(r"ready: grpc (\S+),", line):
                assert text_embeds(ready[1]).shape == (1, 1, 512)
                process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.stdout.close()
    return lines


def text_embeds(url):
    text = tritonclient.grpc.InferInput("text", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([[b"a red circle"]], object))
    with tritonclient.grpc.InferenceServerClient(url) as client:
        return client.infer("clip_text_embedding", [text]).as_numpy("text_embeds")


def test_checkpoint_is_prepared_and_served_from_another_directory(tmp_path):
    preparing, written, ready, stopped = serve_and_stop(tmp_path)
    (repository,) = (tmp_path / "cache" / "tritonclip" / "repositories").iterdir()
    assert preparing == f"preparing {DEMO_CHECKPOINT} in {repository}"
    assert written.startswith(f"{repository}: version 1 holds {DEMO_CHECKPOINT} (")
    assert ready.startswith("ready: grpc ")
    assert stopped == "stopped on SIGTERM"

    again = serve_and_stop(tmp_path)
    assert again[0] == f"{repository} is up to date: version 1 holds {DEMO_CHECKPOINT}"
    assert [line.partition(" ")[0] for line in again[1:]] == ["ready:", "stopped"]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_probe_of_a_healthy_server_is_ok(server, protocol):
    url = server.grpc_url if protocol == "grpc" else f"http://{server.http_url}"
    assert probe(url, timeout_s=60).outcome == "ok"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_probe_of_a_stopped_server_fails(server, protocol):
    url = server.grpc_url if protocol == "grpc" else f"http://{server.http_url}"
    os.kill(server.pid, signal.SIGSTOP)
    try:
        result = probe(url, timeout_s=0.5)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert result.outcome == "failed"
    assert probe(url, timeout_s=60).outcome == "ok"
