"""The GPU benchmark on a CPU: the script, the configuration that it writes, and its count of operations.

The script ends a part after a time limit, so the tests that run it are slow ones.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tests.helpers.servers import ROOT
from tritonclip_server.gpu.context import parameter
from tritonclip_server.gpu.rates import executed_flop, nominal_flop
from tritonclip_server.gpu.serving import with_instances

SCRIPT = "scripts/tritonclip_server/gpu/gpu_benchmark.sh"


def run_benchmark(output, parts, script=SCRIPT):
    """Run parts of the script on the CPU with the installed packages; return results and output."""
    environment = {**os.environ, "PYTHON": sys.executable, "OFFLINE": str(output), "PARTS": parts}
    command = [script, "--device", "cpu", str(output)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((output / "results.json").read_text()), done.stdout + done.stderr


@pytest.mark.slow
def test_script_writes_results_and_report(tmp_path):
    results, printed = run_benchmark(tmp_path, "machine prepare correctness host")
    comparisons = results["correctness"]["comparisons"]
    assert {row["tower"] for row in comparisons} == {"image", "text"}
    assert {row["path"] for row in comparisons} == {"eager", "encode"}
    assert all(row["right"] for row in comparisons)
    assert all(row["images_s"] > 0 for row in results["host"]["decoding"])
    assert "float32: 12 comparisons, 0 wrong" in printed
    assert "| tower | precision |" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_failing_part_does_not_affect_the_next_one(tmp_path):
    """The encoder fails because there is no repository; the script is called by its old path."""
    results, printed = run_benchmark(tmp_path, "encoder machine", "scripts/gpu_benchmark.sh")
    assert f"moved: use {SCRIPT}" in printed
    assert "exit code 1" in results["encoder"]["failed"]
    assert results["machine"]["cores"] >= 1
    assert "encoder failed: exit code 1" in printed
    assert "FileNotFoundError" in (tmp_path / "log.txt").read_text() + printed


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
    from clip_vision import load_vision_model

    settings = json.loads((demo_repository / "vision_encoder" / "1" / "vision.json").read_text())
    model = load_vision_model(demo_repository / "vision_encoder" / "1")
    side = settings["image_size"]
    executed = executed_flop(model, torch.zeros((2, 3, side, side), dtype=torch.uint8))
    assert 0.5 < executed / nominal_flop(settings) <= 1
    layer = torch.nn.Linear(30, 50)
    assert executed_flop(layer, torch.zeros(4, 30)) == 2 * 30 * 50
