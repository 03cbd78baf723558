"""The command `tritonclip` as a process against the real server: what it prints where, and its exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from support import encode, noise

from tritonclip import Client

COMMAND = Path(sys.executable).parent / "tritonclip"
SAMPLE = "scripts/demo/images/red_circle.jpg"
LABELS = ["a red circle", "a blue square"]


@pytest.fixture(params=["grpc", "http"])
def run(request, server):
    """Runs a command against the server, over each protocol."""
    url = {"grpc": server.grpc_url, "http": server.http_url}[request.param]

    def _run(command, *arguments):
        line = [COMMAND, command, "--url", f"{request.param}://{url}", *arguments]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)

    return _run


def test_classify_prints_what_the_client_answers(run, server):
    done = run("classify", "--json", SAMPLE, *LABELS)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)["results"]
    with Client(server.grpc_url) as client:
        assert answer == [{"image": SAMPLE, "predictions": client.classify(ROOT / SAMPLE, LABELS)}]


def test_embed_writes_an_array(run, server, tmp_path):
    done = run("embed", "--text", *LABELS, "--output", tmp_path / "vectors.npy")
    assert (done.returncode, done.stderr) == (0, "")
    with Client(server.grpc_url) as client:
        np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), client.embed_texts(LABELS), atol=1e-5)


def test_health_is_exit_code_0(run):
    assert run("health").returncode == 0


def test_a_cut_label_is_one_line_on_standard_error(run):
    done = run("classify", SAMPLE, "a red circle", "word " * 200)
    assert done.returncode == 0
    assert done.stderr.startswith("tritonclip: warning: label 1 has ")
    assert done.stderr.count("\n") == 1


def test_a_bad_image_is_one_line_and_exit_code_2(run, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(encode(noise(300, 300), "JPEG")[:3000])
    done = run("classify", SAMPLE, broken, "a red circle")
    assert done.returncode == 2
    assert done.stderr.startswith("tritonclip: error: image 1 cannot be decoded")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
