"""Inputs of the benchmarks: image files and labels."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

PHOTO_SIZE = (640, 480)
LARGE_PHOTO_SIZE = (4000, 3000)
LABEL_COUNT = 10
"""Default number of labels per request."""
MOST_LABELS = 1000
NOUNS = "cat dog car house tree boat plane flower bridge face".split()
NOISE = 4.0
"""Standard deviation of the added noise in grey levels. It gives the files the size of camera files."""
SCREENSHOT_SIZE = (1920, 1080)
THUMBNAIL_EDGES = (200, 300)
"""Least and greatest edge of a thumbnail in pixels."""
EXIF_ORIENTATION = 0x0112
TURN_CLOCKWISE = 6
"""EXIF orientation of a photo that a phone took upright: its pixels lie on their side."""


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


def mix(count: int, seed: int = 0) -> Iterator[bytes]:
    """Make the files that a collection of user content has, in an irregular order.

    A quarter are phone photos of 12 megapixels with EXIF orientation 6, a quarter are PNG screenshots, and
    half are JPEG thumbnails with edges of 200 to 300 pixels.

    Args:
        count: Number of files, a multiple of 4.
        seed: Seed of the random generator; equal seeds give equal files.

    Yields:
        Content of the files.
    """
    generator = np.random.default_rng(seed)
    originals = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    turned = Image.Exif()
    turned[EXIF_ORIENTATION] = TURN_CLOCKWISE
    kinds = ["phone", "screenshot", "thumbnail", "thumbnail"] * (count // 4)
    for number, kind in enumerate(generator.permutation(kinds)):
        original = originals[number % len(originals)]
        if kind == "phone":
            yield _jpeg(_variation(original, LARGE_PHOTO_SIZE, generator), exif=turned)
        elif kind == "screenshot":
            yield _png(_screenshot(original, generator))
        else:
            least, most = THUMBNAIL_EDGES
            width, height = (int(edge) for edge in generator.integers(least, most + 1, 2))
            yield _jpeg(_variation(original, (width, height), generator))


def write_photos(directory: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Write files from `photos` into a new directory, and return their paths in order."""
    return write_files(directory, photos(count, size))


def write_files(directory: Path, files: Iterable[bytes]) -> list[Path]:
    """Write image files into a new directory, and return their paths in order."""
    directory.mkdir(parents=True)
    paths = []
    for number, content in enumerate(files):
        suffix = ".png" if content.startswith(b"\x89PNG") else ".jpg"
        paths.append(directory / f"{number:03}{suffix}")
        paths[-1].write_bytes(content)
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


def _screenshot(photo: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Draw a page with a title bar, a photo, and lines of words as bars."""
    width, height = SCREENSHOT_SIZE
    page = Image.new("RGB", SCREENSHOT_SIZE, (250, 250, 252))
    drawing = ImageDraw.Draw(page)
    drawing.rectangle((0, 0, width, 60), fill=(40, 60, 90))
    page.paste(_variation(photo, (720, 540), generator), (60, 120))
    for top in range(100, height - 30, 28):
        left = 840 if top < 680 else 60
        while left < width - 160:
            right = left + int(generator.integers(20, 120))
            drawing.rectangle((left, top, right, top + 12), fill=(50, 50, 50))
            left = right + 10
    return page


def _jpeg(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
