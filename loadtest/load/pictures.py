"""Draw the pictures to send: coloured shapes on blurred backgrounds, with noise, in typical formats."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

NOISE = 4.0
"""Standard deviation of the noise in grey levels. It makes the files as large as those of cameras."""


@dataclass(frozen=True)
class PictureFormat:
    """Size in pixels, and Pillow format."""

    width: int
    height: int
    format: str


_PHOTO = PictureFormat(640, 480, "JPEG")
PICTURE_FORMATS = (
    *(_PHOTO,) * 7,
    PictureFormat(1600, 1200, "JPEG"),
    *(_PHOTO,) * 3,
    PictureFormat(320, 240, "JPEG"),
    PictureFormat(640, 480, "PNG"),
    *(_PHOTO,) * 4,
    PictureFormat(480, 640, "JPEG"),
    PictureFormat(800, 600, "WEBP"),
    PictureFormat(300, 200, "JPEG"),
)
"""14 of 20 pictures are JPEG files of 640 x 480 pixels."""


def draw_pictures(count: int, seed: int) -> list[bytes]:
    """Return distinct encoded files. They depend only on the seed; a smaller count gives a prefix."""
    return [_encode(number, seed, PICTURE_FORMATS[number % len(PICTURE_FORMATS)]) for number in range(count)]


def _encode(number: int, seed: int, form: PictureFormat) -> bytes:
    rng = np.random.default_rng([seed, number])
    picture = _clouds(rng, form)
    _shapes(rng, picture)
    # The same noise on all three channels, as in most photographs.
    noise = rng.standard_normal((form.height, form.width, 1), dtype=np.float32) * NOISE
    noisy = Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
    file = io.BytesIO()
    noisy.save(file, form.format, **({} if form.format == "PNG" else {"quality": 88}))
    return file.getvalue()


def _clouds(rng: np.random.Generator, form: PictureFormat) -> Image.Image:
    """Draw blurred patches of colour around a random one."""
    patches = rng.normal(rng.uniform(40, 215, 3), 25, (4, 5, 3))
    small = Image.fromarray(np.clip(patches, 0, 255).astype(np.uint8))
    return small.resize((form.width, form.height), Image.Resampling.BICUBIC)


def _shapes(rng: np.random.Generator, picture: Image.Image) -> None:
    """Draw one to three polygons, the first one large. Many corners make a disc."""
    pen = ImageDraw.Draw(picture)
    for order in range(rng.integers(1, 4)):
        radius = rng.uniform(0.2, 0.45) * min(picture.size) / (order + 1)
        x, y = (rng.uniform(radius, side - radius) for side in picture.size)
        corners, turn = int(rng.choice([3, 4, 5, 6, 40])), rng.uniform(0, math.tau)
        dents = rng.uniform(0.4, 1.0)  # radius of every second corner, for stars
        points = []
        for corner in range(2 * corners):
            angle = turn + math.pi * corner / corners
            reach = radius * (dents if corner % 2 else 1.0)
            points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        pen.polygon(points, fill=tuple(int(level) for level in rng.integers(0, 256, 3)))
