"""Parts of the training: loss, schedules, batches."""

import pytest
import torch
from transformers import CLIPImageProcessorPil

from tritonclip_server.demo import training as demo_training
from tritonclip_server.demo.scenes import BRIGHT
from tritonclip_server.demo.training import (
    DrawnBatches,
    contrastive_loss,
    learning_rate_factor,
    normalise,
    plain_share,
)


def test_loss_equals_clips_if_each_picture_has_one_caption():
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    target = torch.arange(6)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(logits, target) + cross_entropy(logits.t(), target)) / 2
    torch.testing.assert_close(contrastive_loss(logits, torch.eye(6, dtype=torch.bool)), expected)


def test_loss_of_equal_captions_is_least_for_an_even_split():
    """Two pictures have the same caption."""
    truth = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    even = torch.where(truth, 20.0, 0.0)
    own_only = 20 * torch.eye(3)
    assert contrastive_loss(even, truth) < contrastive_loss(own_only, truth)


def test_learning_rate_rises_then_falls_to_zero():
    factors = [learning_rate_factor(step, 1000) for step in range(1001)]
    assert max(factors) == 1.0 == factors[demo_training.WARMUP_STEPS]
    assert factors[0] < 0.1 and factors[-1] == pytest.approx(0, abs=1e-9)


def test_plain_share_falls_from_one_to_zero():
    assert plain_share(0, 1000) == 1.0
    assert 0 < plain_share(300, 1000) < 1
    assert plain_share(500, 1000) == plain_share(999, 1000) == 0.0


def test_batches_are_reproducible_and_start_plain(monkeypatch):
    monkeypatch.setattr(demo_training, "BATCH", 12)
    first, again, other = (DrawnBatches(seed, 100)[0] for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0]) and first[1] == again[1] and torch.equal(first[2], again[2])
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (12, 3, 224, 224) and first[0].dtype == torch.uint8
    assert first[2].shape == (12, 12) and first[2].diagonal().all()
    dark = {"red", "green", "blue", "purple", "brown"} - set(BRIGHT)
    assert not any(word in text.split() for text in first[1] for word in dark)


def test_normalise_equals_the_image_processor():
    pixels = DrawnBatches(1, 10)[9][0][:2]
    expected = CLIPImageProcessorPil()(list(pixels), return_tensors="pt").pixel_values
    torch.testing.assert_close(normalise(pixels), expected, atol=1e-4, rtol=0)
