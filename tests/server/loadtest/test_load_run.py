"""The load test against the real server, in a subprocess, because locust patches the standard library."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.servers import ROOT
from tritonclip_server.benchmarks.gateway_process import running
from tritonclip_server.serving.launcher import EmbeddedTriton

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("locust") is None, reason="locust is not installed; it requires Python 3.11"
)
ANY_TIME = ("--max-p99-ms", "600000")


def run(
    *arguments: object, environ: dict[str, str] | None = None, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run loadtest/run.py."""
    command = [sys.executable, "loadtest/run.py", *map(str, arguments)]
    environment = dict(os.environ) | {f"TRITONCLIP_LOAD_{name}": value for name, value in settings.items()}
    environment |= environ or {}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def urls(server: EmbeddedTriton) -> list[str]:
    return [
        "--url",
        server.grpc_url,
        "--http-url",
        f"http://{server.http_url}",
        "--metrics-url",
        server.metrics_url,
    ]


@pytest.mark.parametrize("protocol", ["grpc", "http", "gateway"])
def test_successful_run_exits_with_0_and_writes_reports(
    server: EmbeddedTriton, tmp_path: Path, protocol: str
):
    with running(server.grpc_url) if protocol == "gateway" else contextlib.nullcontext() as gateway:
        done = run(
            *urls(server), *ANY_TIME, "--protocol", protocol, "--users", 4, "--run-time-s", 3,
            "--output", tmp_path, BAD_SHARE="0.2", PICTURES="8", DEADLINE_S="60",
            environ={"TRITONCLIP_GATEWAY_URL": gateway.url} if gateway else {},
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
    with (tmp_path / "report_stats.csv").open(encoding="utf-8") as file:
        counts = {row["Name"]: int(row["Request Count"]) for row in csv.DictReader(file)}
    assert {"classify", "embed_images"} <= counts.keys()
    assert any(name.startswith("bad request: ") for name in counts)
    assert not any(" - " in name for name in counts)


def test_missed_threshold_exits_with_1_and_is_named(server: EmbeddedTriton, tmp_path: Path):
    done = run(
        *urls(server),
        "--min-rate",
        1_000_000,
        "--users",
        1,
        "--run-time-s",
        2,
        "--output",
        tmp_path,
        PICTURES="4",
    )
    assert done.returncode == 1
    assert "threshold missed: min_rate: " in done.stderr
    assert "max_error_share" not in done.stderr


def test_unreachable_server_fails_the_run(tmp_path: Path):
    done = run("--url", "127.0.0.1:1", "--users", 1, "--run-time-s", 1, "--output", tmp_path, PICTURES="4")
    assert done.returncode == 1
    assert "threshold missed: max_error_share: " in done.stderr
    assert "classify - error" in done.stderr


def test_overload_counts_every_request(server: EmbeddedTriton, tmp_path: Path):
    done = run(
        *urls(server), "--shape", "overload", "--rate", 5, "--output", tmp_path,
        MEASURE_S="3", WARMUP_S="0.5", PICTURES="4", DEADLINE_S="60", BAD_SHARE="0",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "shape.json").read_text(encoding="utf-8"))
    assert found["offered"] == found["right"] > 0
    assert "image_preprocess" in found["pending_max"]


def test_run_without_a_server_is_a_usage_error(tmp_path: Path):
    done = run("--output", tmp_path)
    assert done.returncode == 2
    assert "give --repository" in done.stderr


def test_malformed_setting_is_reported(tmp_path: Path):
    done = run("--url", "127.0.0.1:1", "--output", tmp_path, BAD_SHARE="2")
    assert done.returncode == 1
    assert "TRITONCLIP_LOAD_BAD_SHARE='2': expected a number from 0 to 1" in done.stderr
