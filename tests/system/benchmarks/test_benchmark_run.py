"""The benchmark with real processes: perf_analyzer on the shared server, and a short run of the command."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.calls import settled_statistics
from tests.helpers.servers import DEMO_CHECKPOINT, ROOT
from tritonclip import Client
from tritonclip_server.benchmarks import perf_analyzer, workload
from tritonclip_server.benchmarks.serving import measurements

MARK = "TRITONCLIP_BENCHMARK_TEST"
ONLY = "fastapi,encoder-8,decode,callers-4"


@pytest.fixture(scope="module")
def program():
    return perf_analyzer.install(ROOT / "build" / "perf_analyzer")


@pytest.fixture
def measure(server, program, tmp_path):
    """Return a function that measures the requests of `tmp_path / "requests.json"`."""
    return functools.partial(
        perf_analyzer.measure,
        program,
        model="clip_zero_shot",
        grpc_url=server.grpc_url,
        inputs=tmp_path / "requests.json",
        timeout_s=600,
    )


def test_perf_analyzer_sends_all_requests(server, measure, tmp_path):
    workload.write_photos(tmp_path / "photos", 4, (320, 240))
    measurements.write_zero_shot_requests(tmp_path / "requests.json", tmp_path / "photos", images=2, labels=5)
    with Client(server.grpc_url) as client:
        before = settled_statistics(client)
        load = measure(shapes=["image:2", "labels:5"], callers=4, requests=12)
        after = settled_statistics(client)
    assert after["clip_zero_shot"].requests - before["clip_zero_shot"].requests == 12
    assert after["clip_zero_shot"].failures == before["clip_zero_shot"].failures
    assert 0 < load.p50_ms <= load.p95_ms <= load.p99_ms
    # Each of the four callers waits for its response, so the latency limits the rate.
    assert 0 < load.requests_per_s <= 12 / load.p50_ms * 1e3
    assert load.cpu_ms > 0


def test_perf_analyzer_error_contains_the_servers_message(measure, tmp_path):
    perf_analyzer.write_requests(tmp_path / "requests.json", [{"image": [b"no image"], "labels": [b"a"]}])
    with pytest.raises(perf_analyzer.PerfAnalyzerError, match="image 0 is not an image"):
        measure(shapes=["image:1", "labels:1"], callers=1, requests=2)


@pytest.fixture
def environment(tmp_path):
    """Environment that marks every process of a run, to recognise processes that survive it."""
    return {**os.environ, MARK: str(tmp_path)}


def surviving_processes(environment):
    mark = f"{MARK}={environment[MARK]}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes():
                found.append(path)
    return found


def start(environment, output, only):
    command = [sys.executable, "scripts/benchmark.py", DEMO_CHECKPOINT, "--quick", "--only", only]
    command += ["--output", output]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.mark.slow  # 38 s of measuring
def test_quick_run_writes_its_files_and_leaves_no_process(servers, tmp_path, environment):
    servers.command("the benchmark's contenders")
    with start(environment, tmp_path, ONLY) as run:
        text, _ = run.communicate(timeout=6000)
    assert run.returncode == 0, text
    content = json.loads((tmp_path / "benchmark.json").read_text())
    assert list(content["rounds"]) == ONLY.split(",")
    assert {line["title"] for line in content["derived"]} == {"roofline: decoding and encoding only"}
    assert set(content["ready_s"]) == {"triton", "parts", "fastapi"}
    assert {"benchmark.md", "callers.png", "stages.png"} <= {path.name for path in tmp_path.iterdir()}
    assert not surviving_processes(environment)


@pytest.mark.slow
def test_interrupted_run_leaves_no_process(servers, tmp_path, environment):
    servers.command("interrupted benchmark")
    with start(environment, tmp_path, "decode") as run:
        before = []
        for line in run.stdout:
            before.append(line)
            if line.startswith("parts is ready"):
                break
        assert len(surviving_processes(environment)) > 1, before
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=600)
    assert run.returncode == 128 + signal.SIGINT
    assert not surviving_processes(environment)
