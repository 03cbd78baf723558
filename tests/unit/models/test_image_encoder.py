"""Encoders: replayed and direct passes give the same embeddings, whatever the groups."""

import numpy as np
import pytest
import torch

from clip_encoder import (
    CapturedPass,
    DirectEncoder,
    GraphEncoder,
    checked_graphs,
    graph_sizes,
    least_cosine,
)

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


def test_direct_encoder_copies_at_most_one_pass(monkeypatch):
    joined, concatenate = [], np.concatenate

    def record(arrays):
        joined.append(sum(map(len, arrays)))
        return concatenate(arrays)

    monkeypatch.setattr(np, "concatenate", record)
    images = np.random.default_rng(0).integers(0, 256, (40, 3, SIDE, SIDE), dtype=np.uint8)
    expected = Tower()(torch.from_numpy(images)).numpy()
    found = DirectEncoder(Tower(), CPU, 16).encode([images[:7], images[7:9], images[9:]])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert 13 in joined
    assert max(joined) <= 16


def normed(pixels):
    return torch.nn.functional.normalize(Tower()(pixels - 128.0), dim=1)


def capture_wrong(wrong_size, spoil):
    """Return a capture whose pass of one size is wrong."""

    def capture(forward, pixels):
        right = capture_on_host(forward, pixels)

        def replay():
            right.replay()
            if len(pixels) == wrong_size:
                spoil(right.embeds)

        return CapturedPass(replay, right.embeds)

    return capture


def turn_last_row(embeds):
    embeds[-1] = -embeds[-1]


def fill_with_nan(embeds):
    embeds[0] = torch.nan


@pytest.mark.parametrize("size", [1, 8, 16])
@pytest.mark.parametrize("spoil", [turn_last_row, fill_with_nan])
def test_wrong_pass_of_any_size_is_found(size, spoil):
    exact = DirectEncoder(normed, CPU, 16)
    right = GraphEncoder(normed, CPU, 16, SIDE, capture=capture_on_host)
    assert least_cosine(right, exact, SIDE) == pytest.approx(1, abs=1e-5)
    wrong = GraphEncoder(normed, CPU, 16, SIDE, capture=capture_wrong(size, spoil))
    assert not least_cosine(wrong, exact, SIDE) >= 0.999


@pytest.mark.parametrize(
    ("wanted", "wrong", "used", "warnings"),
    [
        ("float16", [], "float16", 0),
        ("float16", ["float16"], "bfloat16", 1),
        ("float16", ["float16", "bfloat16"], "float32", 2),
        ("bfloat16", ["bfloat16"], "float32", 1),
        ("float32", ["float32"], "float32", 0),
    ],
)
def test_next_precision_replaces_one_whose_passes_are_wrong(wanted, wrong, used, warnings):
    def build(dtype):
        spoiled = 8 if str(dtype).removeprefix("torch.") in wrong else None
        return GraphEncoder(normed, CPU, 16, SIDE, capture=capture_wrong(spoiled, fill_with_nan))

    logged = []
    exact = DirectEncoder(normed, CPU, 16)
    _, dtype = checked_graphs(getattr(torch, wanted), build, exact, SIDE, logged.append)
    assert dtype == getattr(torch, used)
    assert len(logged) == warnings
    assert all(f"in {name} is not used" in text for name, text in zip(wrong, logged, strict=False))
