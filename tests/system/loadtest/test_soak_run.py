"""The shortest possible soak passes, and detects a model that leaks."""

import csv
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.helpers.servers import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("locust") is None, reason="locust is not installed; it requires Python 3.11"
    ),
]

LEAK = """

_taken = []
_execute = TritonPythonModel.execute


def _leak(self, requests):
    _taken.append(bytearray(os.urandom(1 << 20)))
    return _execute(self, requests)


TritonPythonModel.execute = _leak
"""


def soak(repository, output, *options):
    """Run a soak of half a minute."""
    command = [sys.executable, "loadtest/soak.py", "--minutes", "0.5", "--load-share", "0.3"]
    command += ["--repository", repository, "--output", output, *options]
    environment = dict(os.environ, COLUMNS="120")
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def repository(prepare):
    """Prepare the demo checkpoint with a small label cache."""
    return prepare("scripts/demo/checkpoint", "--set", "text_encoder.cache_bytes=100000")


def test_short_soak_passes(repository, tmp_path):
    # Buffers still grow during half a minute, so the growth limit is too high to matter.
    done = soak(repository, tmp_path, "--growth-limit", "10")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed: no growth" in done.stdout
    assert "vision_encoder_0_0" in done.stdout
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert all(summary["requests"][protocol] > 0 for protocol in ("grpc", "http"))
    assert sum(summary["hang_ups"].values()) > 5
    assert summary["findings"] == []
    with (tmp_path / "samples.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 50
    assert float(rows[-1]["succeeded"]) > float(rows[0]["succeeded"])
    assert (tmp_path / "soak.png").stat().st_size > 10_000


def test_leaking_model_is_named(repository, tmp_path):
    model = repository / "similarity" / "1" / "model.py"
    sound = model.read_text(encoding="utf-8")
    model.write_text(sound + LEAK.replace("_taken", "import os\n\n_taken", 1), encoding="utf-8")
    try:
        done = soak(repository, tmp_path, "--growth-limit", "0.1")
    finally:
        model.write_text(sound, encoding="utf-8")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED similarity_0_0: private_bytes grew by" in done.stdout
    findings = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["findings"]
    assert "similarity_0_0" in {finding["subject"] for finding in findings}
