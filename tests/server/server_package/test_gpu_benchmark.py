"""The GPU benchmark on a CPU: the script with small limits, and the functions behind its figures."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tests.helpers.servers import ROOT
from tritonclip_server.gpu.context import parameter
from tritonclip_server.gpu.correctness import buckets, compare, is_right, random_texts
from tritonclip_server.gpu.decoding import photographs
from tritonclip_server.gpu.rates import executed_flop, median_seconds, nominal_flop
from tritonclip_server.gpu.report import report, summary
from tritonclip_server.gpu.serving import steady_rate, with_instances

SCRIPT = "scripts/tritonclip_server/gpu/gpu_benchmark.sh"


def run_benchmark(output, parts, script=SCRIPT):
    """Run parts of the script on the CPU with the installed packages; return results and output."""
    environment = {**os.environ, "PYTHON": sys.executable, "OFFLINE": str(output), "PARTS": parts}
    command = [script, "--device", "cpu", str(output)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((output / "results.json").read_text()), done.stdout + done.stderr


def test_script_writes_results_and_report(tmp_path):
    results, printed = run_benchmark(tmp_path, "machine prepare correctness host")
    comparisons = results["correctness"]["comparisons"]
    assert {row["tower"] for row in comparisons} == {"image", "text"}
    assert {row["path"] for row in comparisons} == {"eager", "encode"}
    assert all(row["right"] for row in comparisons)
    assert all(row["images_s"] > 0 for row in results["host"]["decoding"])
    assert "float32: 12 comparisons, 0 wrong" in printed
    assert "| tower | precision |" in (tmp_path / "report.md").read_text()


def test_failing_part_does_not_affect_the_next_one(tmp_path):
    """The encoder fails because there is no repository; the script is called by its old path."""
    results, printed = run_benchmark(tmp_path, "encoder machine", "scripts/gpu_benchmark.sh")
    assert f"moved: use {SCRIPT}" in printed
    assert "exit code 1" in results["encoder"]["failed"]
    assert results["machine"]["cores"] >= 1
    assert "encoder failed: exit code 1" in printed
    assert "FileNotFoundError" in (tmp_path / "log.txt").read_text() + printed


def unit_vectors(*shape):
    values = np.random.default_rng().normal(size=shape)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_one_wrong_row_or_nan_fails_the_comparison():
    images, texts = unit_vectors(6, 8), unit_vectors(10, 8)
    error, cosine = compare(images, texts, images, texts)
    assert (error, cosine) == (0, pytest.approx(1))
    assert is_right("float32", error, cosine)
    wrong = images.copy()
    wrong[3] = -wrong[3]
    error, cosine = compare(wrong, texts, images, texts)
    assert cosine == pytest.approx(-1)
    assert not is_right("bfloat16", error, cosine)
    wrong[3] = np.nan
    error, cosine = compare(wrong, texts, images, texts)
    assert np.isnan(error)
    assert not is_right("bfloat16", error, cosine)
    assert not is_right("bfloat16", 0.0, float("nan"))


def test_with_instances_changes_only_instances_and_threads(demo_repository):
    config = (demo_repository / "image_preprocess" / "config.pbtxt").read_text(encoding="utf-8")
    before, after = ModelConfig(), ModelConfig()
    text_format.Parse(config, before)
    text_format.Parse(with_instances(config, 14, 2), after)
    assert after.instance_group[0].count == 14
    assert parameter(with_instances(config, 14, 2), "threads") == "2"
    before.instance_group[0].count, before.parameters["threads"].string_value = 14, "2"
    assert before == after
    with pytest.raises(ValueError, match="no instance_group"):
        with_instances("name: 'similarity'", 2, 1)


def test_executed_operations_count_the_matrix_products(demo_repository):
    settings = json.loads((demo_repository / "vision_encoder" / "1" / "vision.json").read_text())
    from clip_vision import load_vision_model

    model = load_vision_model(demo_repository / "vision_encoder" / "1")
    side = settings["image_size"]
    executed = executed_flop(model, torch.zeros((2, 3, side, side), dtype=torch.uint8))
    assert 0.5 < executed / nominal_flop(settings) <= 1
    layer = torch.nn.Linear(30, 50)
    assert executed_flop(layer, torch.zeros(4, 30)) == 2 * 30 * 50


def test_nominal_operations_equal_those_of_transformers_tower():
    config = CLIPVisionConfig(num_hidden_layers=2, attn_implementation="eager")
    settings = config.to_dict() | {"projection_dim": config.projection_dim}
    model = CLIPVisionModelWithProjection(config).eval()
    counted = executed_flop(lambda pixels: model(pixel_values=pixels), torch.zeros(1, 3, 224, 224))
    assert nominal_flop(settings) == counted


def test_steady_rate_warms_up_then_sends_enough_requests():
    sent = []

    def send(requests):
        sent.append(requests)
        return 100.0

    assert steady_rate(send, callers=4, seconds=2.5) == 100
    assert sent == [8, 250]
    steady_rate(send, callers=200, seconds=2.5)
    assert sent[2:] == [400, 400]


def test_generated_photographs_and_texts_are_reproducible_and_in_range():
    files = photographs(2)
    assert [Image.open(io.BytesIO(file)).size for file in files] == [(640, 480)] * 2
    assert files == photographs(2)
    assert files[0] != files[1]
    assert buckets(64) == [1, 2, 4, 8, 16, 32, 64]
    assert all(1 <= len(text.split()) <= 40 for text in random_texts(np.random.default_rng(), 20))


def test_median_is_taken_over_at_least_three_calls():
    calls = []
    assert median_seconds(lambda: calls.append(1), "cpu", seconds=0) >= 0
    assert len(calls) == 6  # three of them are the warm-up


def test_report_shows_nan_shares_and_failures():
    row = {"precision": "float16", "score_error": float("nan"), "cosine": 0.5, "right": False}
    fine = {"precision": "float16", "score_error": 0.1, "cosine": 0.9, "right": True}
    content = {
        "correctness": {"comparisons": [fine, row]},
        "host": {"decoding": [{"processes": 16, "threads": 1, "images_s": 2000.0}]},
        "ensemble": {
            "loads": [{"model": "clip_zero_shot", "callers": 64, "images_s": 1800.0}],
            "failed": "exit code 124",
        },
    }
    lines = summary(content)
    assert "- float16: 2 comparisons, 1 wrong; largest score error nan, least cosine 0.5000000" in lines
    assert any("ensemble, share of the decoding rate: 90.0%" in line for line in lines)
    assert "- ensemble failed: exit code 124" in lines
    assert "| 16 | 1 | 2000 |" in report(content)
