"""Small random pictures, and the comparison of Spark's answers with the client's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

TOLERANCE = 2e-6  # of a score; requests of different sizes differ by this much


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Write `count` different JPEG files of 64 x 64 pixels."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        blocks = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        blocks.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)
    return sorted(folder.iterdir())


def assert_same(label: str, scores: list[Any], expected: list[Any]) -> None:
    """Assert the client's labels, order and scores; labels with nearly equal scores may swap."""
    ours = [(one["score"], one["label"]) for one in scores]
    assert label == ours[0][1]
    assert [score for score, _ in ours] == sorted((score for score, _ in ours), reverse=True)
    theirs = {one["label"]: one["score"] for one in expected}
    assert {name: score for score, name in ours} == pytest.approx(theirs, abs=TOLERANCE)
    for (score, name), one in zip(ours, expected, strict=True):
        assert name == one["label"] or score == pytest.approx(one["score"], abs=TOLERANCE)
