"""Encoders: replayed and direct passes give the same embeddings, whatever the groups."""

import numpy as np
import pytest
import torch

from clip_encoder import CapturedPass, DirectEncoder, GraphEncoder, graph_sizes

CPU = torch.device("cpu")
SIDE, DIM = 4, 5


class Tower:
    """A small tower that maps each image separately and records the sizes of its passes."""

    def __init__(self):
        self.weight = torch.randn(3 * SIDE * SIDE, DIM, generator=torch.Generator().manual_seed(0))
        self.sizes = []

    def __call__(self, pixels):
        self.sizes.append(len(pixels))
        return pixels.flatten(1).float() @ self.weight


def capture_on_host(forward, pixels):
    """Capture a pass like a CUDA graph: every replay reads and writes the same memory."""
    embeds = torch.full((len(pixels), DIM), torch.nan)
    return CapturedPass(lambda: embeds.copy_(forward(pixels)), embeds)


@pytest.mark.parametrize(
    "counts", [[1], [3], [8], [11], [16], [17], [1] * 16, [5, 1, 30, 2], [16, 16, 16], [40], [15, 2, 15]]
)
def test_replayed_passes_equal_direct_passes(counts):
    random = np.random.default_rng(sum(counts))
    groups = [random.integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8) for count in counts]
    encoder = GraphEncoder(Tower(), CPU, 16, SIDE, capture=capture_on_host)
    expected = DirectEncoder(Tower(), CPU, 16).encode(groups)
    for _ in range(2):
        found = encoder.encode(groups)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_smallest_captured_pass_that_fits_is_replayed():
    tower = Tower()
    encoder = GraphEncoder(tower, CPU, 64, SIDE, capture=capture_on_host)
    images = np.zeros((70, 3, SIDE, SIDE), np.uint8)
    encoder.encode([images[:13]])
    encoder.encode([images])
    assert tower.sizes == [16, 64, 8]


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [
        (1, [1]),
        (4, [1, 2, 4]),
        (20, [1, 2, 4, 8, 16, 20]),
        (64, [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64]),
        (256, [1, 2, 4, 8, 16, 24, 32, 64, 96, 128, 160, 192, 224, 256]),
    ],
)
def test_graph_sizes_are_powers_of_two_then_eighths_of_the_largest(largest, sizes):
    assert graph_sizes(largest) == sizes


def test_direct_encoder_runs_as_few_passes_as_possible():
    tower = Tower()
    for count in (15, 20):
        DirectEncoder(tower, CPU, 16).encode([np.zeros((count, 3, SIDE, SIDE), np.uint8)] * 2)
    assert tower.sizes == [15, 15, 13, 13, 14]
