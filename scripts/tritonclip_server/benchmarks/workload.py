"""Inputs of the benchmarks: JPEG files and labels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

PHOTO_SIZE = (640, 480)
LARGE_PHOTO_SIZE = (4000, 3000)
LABEL_COUNT = 10
"""Default number of labels per request."""
MOST_LABELS = 1000
NOUNS = "cat dog car house tree boat plane flower bridge face".split()
NOISE = 4.0
"""Standard deviation of the added noise in grey levels. It gives the files the size of camera files."""


def labels(count: int) -> list[str]:
    """Return the first `count` of 1000 different labels. Shorter lists are prefixes of longer ones."""
    things = [*NOUNS, *(f"thing {number}" for number in range(MOST_LABELS - len(NOUNS)))]
    return [f"a photo of a {thing}" for thing in things[:count]]


def photos(count: int, size: tuple[int, int], seed: int = 0) -> Iterator[bytes]:
    """Make different JPEG files of quality 90 from scikit-learn's two photographs.

    Each is a crop of random position and size, resized, with slight noise. Half of them are mirrored.

    Args:
        count: Number of files.
        size: Width and height.
        seed: Seed of the random generator; equal seeds give equal files.

    Yields:
        Content of the files.
    """
    generator = np.random.default_rng(seed)
    originals = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(count):
        yield _jpeg(_variation(originals[number % len(originals)], size, generator))


def write_photos(directory: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Write files from `photos` into a new directory, and return their paths in order."""
    directory.mkdir(parents=True)
    paths = []
    for number, photo in enumerate(photos(count, size)):
        paths.append(directory / f"{number:03}.jpg")
        paths[-1].write_bytes(photo)
    return paths


def write_patterns(directory: Path, count: int) -> list[Path]:
    """Write different JPEG files of 320 x 240 pixels, about 10 kB each, and return their paths in order."""
    directory.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        blocks = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        blocks.resize((320, 240), Image.Resampling.BICUBIC).save(directory / f"{number:06}.jpg", quality=90)
    return sorted(directory.iterdir())


def _variation(image: Image.Image, size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    aspect = size[0] / size[1]
    height = generator.uniform(0.6, 1.0) * min(image.height, image.width / aspect)
    width = height * aspect
    left, top = generator.uniform(0, image.width - width), generator.uniform(0, image.height - height)
    box = (left, top, left + width, top + height)
    varied = image.resize(size, Image.Resampling.BICUBIC, box=box)
    if generator.random() < 0.5:
        varied = varied.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # The noise is equal on all three channels, as most noise of a photograph is.
    noise = generator.standard_normal((size[1], size[0], 1), dtype=np.float32) * NOISE
    return Image.fromarray(np.clip(np.asarray(varied) + noise, 0, 255).astype(np.uint8))


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()
