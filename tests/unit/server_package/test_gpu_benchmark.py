"""The functions behind the figures of the GPU benchmark."""

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tritonclip_server.gpu.correctness import buckets, compare, is_right, load_encoders, random_texts
from tritonclip_server.gpu.decoding import photographs
from tritonclip_server.gpu.rates import executed_flop, median_seconds, nominal_flop
from tritonclip_server.gpu.report import report, summary
from tritonclip_server.gpu.serving import steady_rate
from tritonclip_server.repository.prepare import main as prepare


def unit_vectors(*shape):
    values = np.random.default_rng(0).normal(size=shape)
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


def test_nominal_operations_equal_those_of_transformers_tower():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

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
    steady_rate(send, callers=4, seconds=2.5, most=60)
    assert sent[4:] == [8, 60]


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


def test_encoders_are_those_of_a_prepared_repository(small_checkpoint, tmp_path, monkeypatch):
    done = CliRunner().invoke(prepare, [str(small_checkpoint), "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    context = SimpleNamespace(repository=tmp_path, device="cpu", max_bucket=4)
    encoders = load_encoders(context, "float32")
    assert encoders.encode_texts(["a cat", "a photo of a dog"]).shape == (2, 16)
    pixels = np.zeros((1, 3, encoders.side, encoders.side), np.uint8)
    assert encoders.encode_images(pixels).shape == (1, 16)
