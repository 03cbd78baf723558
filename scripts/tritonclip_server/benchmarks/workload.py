"""What every contender is given: the same JPEG files and the same labels."""

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
"""Labels a request, where a measurement does not say otherwise."""
MOST_LABELS = 1000
NOUNS = "cat dog car house tree boat plane flower bridge face".split()
NOISE = 4.0
"""Standard deviation of the noise added, in grey levels: the files get the size that cameras' files have."""


def labels(count: int) -> list[str]:
    """The first `count` of 1000 labels, no two alike; shorter lists are the beginnings of longer ones."""
    things = [*NOUNS, *(f"thing {number}" for number in range(MOST_LABELS - len(NOUNS)))]
    return [f"a photo of a {thing}" for thing in things[:count]]


def photos(count: int, size: tuple[int, int], seed: int = 0) -> Iterator[bytes]:
    """JPEG files of quality 90, no two alike, from scikit-learn's two photographs.

    Each is a crop of random place and size, half of them mirrored, resized and with slight noise.

    Args:
        count: How many.
        size: (width, height) of each.
        seed: The same seed gives the same files.
    """
    generator = np.random.default_rng(seed)
    originals = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(count):
        yield _jpeg(_variation(originals[number % len(originals)], size, generator))


def write_photos(directory: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Writes such files into a new directory; returns their paths in order."""
    directory.mkdir(parents=True)
    paths = []
    for number, photo in enumerate(photos(count, size)):
        paths.append(directory / f"{number:03}.jpg")
        paths[-1].write_bytes(photo)
    return paths


def _variation(image: Image.Image, size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    aspect = size[0] / size[1]
    height = generator.uniform(0.6, 1.0) * min(image.height, image.width / aspect)
    width = height * aspect
    left, top = generator.uniform(0, image.width - width), generator.uniform(0, image.height - height)
    box = (left, top, left + width, top + height)
    varied = image.resize(size, Image.Resampling.BICUBIC, box=box)
    if generator.random() < 0.5:
        varied = varied.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # The same noise on all three colours, as most of it is in a photograph.
    noise = generator.standard_normal((size[1], size[0], 1), dtype=np.float32) * NOISE
    return Image.fromarray(np.clip(np.asarray(varied) + noise, 0, 255).astype(np.uint8))


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()
