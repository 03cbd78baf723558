"""The sampler of a soak, with the real server and with the text formats that it parses."""

import os
import subprocess
import sys

import psutil
import pytest
from loadtest.soaking.samples import STUB, Sampler, kib_lines, metric_figures, process_figures, process_name

from tests.helpers.calls import metric

MODELS = ("image_preprocess_0_0", "vision_encoder_0_0", "text_encoder_0_0", "similarity_0_0")
METRICS = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
nv_inference_request_success{model="clip_zero_shot",version="1"} 10
nv_inference_request_success{model="clip_text_embedding",version="1"} 5
nv_inference_request_success{model="vision_encoder",version="1"} 7
nv_inference_request_failure{model="clip_zero_shot",reason="BACKEND",version="1"} 2
nv_inference_request_failure{model="clip_zero_shot",reason="CANCELED",version="1"} 1
nv_inference_pending_request_count{model="vision_encoder",version="1"} 3
nv_inference_pending_request_count{model="similarity",version="1"} 4
tritonclip_requests_executing{instance="similarity_0_0",model="similarity"} 2
tritonclip_label_cache_bytes{instance="text_encoder_0_0",model="text_encoder"} 2.5e+06
"""


def test_process_name_is_the_instance_of_a_stub_or_the_program():
    stub = [f"/tmp/x/{STUB}", "/models/vision_encoder/1/model.py", "triton_python_backend_shm_region_ab"]
    assert process_name([*stub, "1048576", "6991", "/tmp/x", "336", "vision_encoder_0_1", "DEFAULT"]) == (
        "vision_encoder_0_1"
    )
    assert process_name(["/opt/bin/tritonserver", "--model-repository=/models"]) == "tritonserver"
    assert process_name([]) == "unknown"


def test_metric_figures_sum_over_models():
    row = metric_figures(METRICS)
    assert (row["succeeded"], row["failed"]) == (15, 3)
    assert (row["pending"], row["executing"]) == (7, 2)
    assert row["label_cache_bytes"] == 2.5e6


def test_kib_lines_are_converted_to_bytes():
    assert kib_lines("Rss:      48400 kB\nThreads:  7\nPss_Anon: 1 kB\n") == {
        "Rss": 49561600,
        "Pss_Anon": 1024,
    }


def test_process_figures_include_allocated_memory():
    program = "import sys; taken = bytearray(64 << 20); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout.readline() == b"ready\n"
        figures = process_figures(psutil.Process(child.pid))
        child.stdin.close()
    assert figures["pid"] == child.pid
    assert 64 << 20 < figures["private_bytes"] < 84 << 20
    assert figures["private_bytes"] < figures["resident_bytes"]
    assert figures["uss_bytes"] <= figures["pss_bytes"] <= figures["resident_bytes"] + figures["shm_bytes"]
    assert figures["threads"] == 1


def test_process_figures_include_an_open_file(tmp_path):
    before = process_figures(psutil.Process(os.getpid()))["handles"]
    with (tmp_path / "open").open("w"):
        assert process_figures(psutil.Process(os.getpid()))["handles"] == before + 1


def test_sample_includes_the_server_and_each_stub(server):
    row = Sampler(server.pid, server.metrics).sample()
    assert row["tritonserver.pid"] == server.pid
    for name in ("tritonserver", *MODELS):
        assert row[f"{name}.private_bytes"] > 0
        assert row[f"{name}.threads"] >= 1
    assert row["regions"] >= len(MODELS)
    assert row["regions_bytes"] >= len(MODELS) << 20
    assert row["label_cache_bytes"] == metric(server, "tritonclip_label_cache_bytes")
    assert row["pending"] == 0


def test_sample_of_an_exited_server_contains_only_the_time():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    row = Sampler(child.pid, lambda: pytest.fail("asked for metrics")).sample()
    assert row.keys() == {"time_s"}


def test_sample_without_metrics_includes_processes(server):
    def refused():
        raise ConnectionRefusedError

    row = Sampler(server.pid, refused).sample()
    assert "tritonserver.pid" in row
    assert "pending" not in row
