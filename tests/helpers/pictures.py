"""Pictures for the tests: drawn ones in every form that users send, and two photographs of scikit-learn."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image


def _folder(package: str) -> Path:
    """Return the folder of an installed package without importing it, because that takes seconds."""
    spec = importlib.util.find_spec(package)
    assert spec and spec.origin, f"{package} is not installed"
    return Path(spec.origin).parent


EXIF_ORIENTATION = 0x0112
REFERENCE_WHITENS = "return_numpy" in (_folder("transformers") / "image_transforms.py").read_text("utf-8")
"""True if transformers turns transparent colours white, as the server does; for Python 3.10 it does not."""


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """Encode an image in a file format of Pillow."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draw RGB noise on a gradient, so that every resize, crop and rotation changes the pixels."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    ramp = np.stack([255 * x / max(1, width - 1), 255 * y / max(1, height - 1), 127 + 0 * x], axis=-1)
    return Image.fromarray(np.clip(ramp + generator.normal(0, 40, ramp.shape), 0, 255).astype(np.uint8))


@cache
def photos() -> tuple[Image.Image, ...]:
    """Return two photographs of 640 x 427 pixels."""
    folder = _folder("sklearn") / "datasets" / "images"
    files = [Image.open(folder / name) for name in ("china.jpg", "flower.jpg")]
    return tuple(Image.fromarray(np.asarray(file)) for file in files)


def turned(image: Image.Image, orientation: int) -> bytes:
    """Encode a JPEG whose EXIF data request an orientation."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return encode(image, "JPEG", quality=90, exif=exif)


def _gray16() -> Image.Image:
    ramp = np.linspace(0, 65535, 300 * 260).reshape(260, 300)
    return Image.fromarray(ramp.astype(np.uint16))


def _turned_noise(orientation: int) -> bytes:
    return turned(noise(400, 260, seed=orientation), orientation)


def _noise_png(width: int, height: int) -> bytes:
    return encode(noise(width, height), "PNG", compress_level=1)


def _transparent(width: int, height: int) -> Image.Image:
    image = noise(width, height, seed=7).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((width, height)))
    return image


SIZES = [
    (224, 224),
    (225, 224),
    (224, 225),
    (223, 500),
    (1, 1),
    (2, 3),
    (10, 224),
    (1000, 37),
    (37, 1000),
    (2000, 3),
    (3, 2000),
    (333, 777),
    (1600, 1200),
]
PICTURES: dict[str, Callable[[], bytes]] = {
    "photo.jpg": lambda: encode(photos()[0], "JPEG", quality=92),
    "flower.jpg": lambda: encode(photos()[1], "JPEG", quality=75, progressive=True),
    "photo.webp": lambda: encode(photos()[0], "WEBP", quality=80),
    "lossless.webp": lambda: encode(photos()[1], "WEBP", lossless=True, method=0),
    "photo.png": lambda: encode(photos()[0], "PNG"),
    "photo.bmp": lambda: encode(photos()[1], "BMP"),
    "photo.tiff": lambda: encode(photos()[0], "TIFF"),
    "photo.ppm": lambda: encode(photos()[1], "PPM"),
    "photo.gif": lambda: encode(photos()[0], "GIF"),
    "grey.jpg": lambda: encode(photos()[0].convert("L"), "JPEG"),
    "grey.png": lambda: encode(photos()[1].convert("L"), "PNG"),
    "grey_alpha.png": lambda: encode(photos()[1].convert("LA"), "PNG"),
    "cmyk.jpg": lambda: encode(photos()[0].convert("CMYK"), "JPEG"),
    "ycbcr.jpg": lambda: encode(photos()[1].convert("YCbCr"), "JPEG"),
    "one_bit.png": lambda: encode(photos()[0].convert("1"), "PNG"),
    "palette.png": lambda: encode(photos()[1].convert("P"), "PNG"),
    "rgba.png": lambda: encode(_transparent(400, 300), "PNG"),
    "rgba.webp": lambda: encode(_transparent(320, 320), "WEBP", lossless=True, method=0),
    "grey16.png": lambda: encode(_gray16(), "PNG"),
    "grey16.tiff": lambda: encode(_gray16(), "TIFF"),
    "float.tiff": lambda: encode(photos()[1].convert("F"), "TIFF"),
    "lab.tiff": lambda: encode(noise(250, 250).convert("LAB"), "TIFF"),
}
"""Functions that draw and encode the varied images, by name."""
if REFERENCE_WHITENS:
    PICTURES |= {
        "palette_transparent.png": lambda: encode(photos()[0].convert("P"), "PNG", transparency=3),
        "rgb_transparent.png": lambda: encode(noise(260, 240), "PNG", transparency=(0, 0, 127)),
    }
PICTURES |= {f"exif_{turn}.jpg": partial(_turned_noise, turn) for turn in range(2, 9)}
PICTURES |= {f"{width}x{height}.png": partial(_noise_png, width, height) for width, height in SIZES}
TELLING = ["photo.jpg", "cmyk.jpg", "exif_6.jpg", "rgba.webp", "grey16.png", "10x224.png"]


@cache
def varied_image(name: str) -> bytes:
    """Return one of the images of `varied_images`, whose names are the keys of `PICTURES`."""
    return PICTURES[name]()


def varied_images() -> dict[str, bytes]:
    """Return more than forty encoded images by name, of many formats, modes, orientations and sizes."""
    return {name: varied_image(name) for name in PICTURES}


def telling_images() -> dict[str, bytes]:
    """Return the six of `varied_images` that between them reach every step of decoding.

    - photo.jpg: An ordinary photograph.
    - cmyk.jpg: Four channels, stored inverted.
    - exif_6.jpg: An orientation that swaps width and height.
    - rgba.webp: Transparency, and a third format.
    - grey16.png: 16 bits per pixel.
    - 10x224.png: Enlarged to a height of 5017.6 pixels, truncated to 5017, then cropped to 224.
    """
    return {name: varied_image(name) for name in TELLING}
