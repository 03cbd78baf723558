"""The benchmark with real processes: perf_analyzer on the shared server, and a short run of the command."""

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tests.helpers.calls import settled_statistics
from tests.helpers.servers import DEMO_CHECKPOINT, ROOT
from tritonclip import Client
from tritonclip_server.benchmarks import machine, perf_analyzer, workload
from tritonclip_server.benchmarks.serving import load

MARK = "TRITONCLIP_BENCHMARK_TEST"
ONLY = "fastapi-16,triton-16,triton-mix,triton-embed-1,encoder-8,decode"


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
    labels = [label.encode() for label in workload.labels(5)]
    perf_analyzer.write_image_requests(tmp_path / "requests.json", workload.photos(4, (320, 240)), 2, labels)
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


def test_load_over_grpc_counts_answers(server):
    api = load.GrpcApi(server.grpc_url, workload.labels(3), 4)
    requests = [api.encode([photo]) for photo in workload.photos(2, (320, 240))]
    with Client(server.grpc_url) as client:
        before = settled_statistics(client)["clip_zero_shot"]
        result = asyncio.run(load.load(api, requests, seconds=0))
        after = settled_statistics(client)["clip_zero_shot"]
    assert len(result["latencies_s"]) == after.requests - before.requests == 4
    assert result["rejected"] == after.failures - before.failures == 0


def test_load_over_grpc_counts_rejections(server):
    api = load.GrpcApi(server.grpc_url, workload.labels(3), 2)
    (photo,) = workload.photos(1, (320, 240))
    request = service_pb2.ModelInferRequest.FromString(api.encode([photo]))
    request.parameters["deadline_ms"].int64_param = 0
    result = asyncio.run(load.load(api, [request.SerializeToString()], seconds=0))
    assert result["rejected"] == 2 and result["latencies_s"] == []


def test_load_over_grpc_ends_at_other_errors(server):
    api = load.GrpcApi(server.grpc_url, workload.labels(3), 1)
    with pytest.raises(grpc.aio.AioRpcError, match="image 0 is not an image"):
        asyncio.run(load.load(api, [api.encode([b"no image"])], seconds=0))


def test_versions_are_those_of_the_other_python():
    assert machine.versions_in(Path(sys.executable), ["numpy"]) == {"numpy": np.__version__}


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
    assert {line["title"] for line in content["derived"]} == {
        "roofline: decoding and encoding only",
        "throughput / FastAPI",
        "throughput / roofline",
    }
    assert set(content["ready_s"]) == {"triton", "parts", "fastapi"}
    assert "infinity" in content["skipped"]
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
