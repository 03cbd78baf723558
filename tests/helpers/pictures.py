"""Pictures for the tests: drawn ones in every form that users send, and two photographs of scikit-learn."""

from __future__ import annotations

import inspect
import io
from functools import cache

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images
from transformers.image_transforms import convert_to_rgb

EXIF_ORIENTATION = 0x0112
REFERENCE_WHITENS = "return_numpy" in inspect.signature(convert_to_rgb).parameters
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
    return tuple(Image.fromarray(array) for array in load_sample_images().images)


def turned(image: Image.Image, orientation: int) -> bytes:
    """Encode a JPEG whose EXIF data request an orientation."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return encode(image, "JPEG", quality=90, exif=exif)


def _gray16() -> Image.Image:
    ramp = np.linspace(0, 65535, 300 * 260).reshape(260, 300)
    return Image.fromarray(ramp.astype(np.uint16))


def _transparent(width: int, height: int) -> Image.Image:
    image = noise(width, height, seed=7).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((width, height)))
    return image


@cache
def varied_images() -> dict[str, bytes]:
    """Return more than forty encoded images by name, of many formats, modes, orientations and sizes."""
    china, flower = photos()
    images = {
        "photo.jpg": encode(china, "JPEG", quality=92),
        "flower.jpg": encode(flower, "JPEG", quality=75, progressive=True),
        "photo.webp": encode(china, "WEBP", quality=80),
        "lossless.webp": encode(flower, "WEBP", lossless=True),
        "photo.png": encode(china, "PNG"),
        "photo.bmp": encode(flower, "BMP"),
        "photo.tiff": encode(china, "TIFF"),
        "photo.ppm": encode(flower, "PPM"),
        "photo.gif": encode(china, "GIF"),
        "grey.jpg": encode(china.convert("L"), "JPEG"),
        "grey.png": encode(flower.convert("L"), "PNG"),
        "grey_alpha.png": encode(flower.convert("LA"), "PNG"),
        "cmyk.jpg": encode(china.convert("CMYK"), "JPEG"),
        "ycbcr.jpg": encode(flower.convert("YCbCr"), "JPEG"),
        "one_bit.png": encode(china.convert("1"), "PNG"),
        "palette.png": encode(flower.convert("P"), "PNG"),
        "rgba.png": encode(_transparent(400, 300), "PNG"),
        "rgba.webp": encode(_transparent(320, 320), "WEBP", lossless=True),
        "grey16.png": encode(_gray16(), "PNG"),
        "grey16.tiff": encode(_gray16(), "TIFF"),
        "float.tiff": encode(flower.convert("F"), "TIFF"),
        "lab.tiff": encode(noise(250, 250).convert("RGB").convert("LAB"), "TIFF"),
    }
    if REFERENCE_WHITENS:
        images["palette_transparent.png"] = encode(china.convert("P"), "PNG", transparency=3)
        images["rgb_transparent.png"] = encode(noise(260, 240), "PNG", transparency=(0, 0, 127))
    images |= {f"exif_{turn}.jpg": turned(noise(400, 260, seed=turn), turn) for turn in range(2, 9)}
    sizes = [
        (224, 224),
        (225, 224),
        (224, 225),
        (223, 500),
        (1, 1),
        (2, 3),
        (10, 224),
        (1000, 37),
        (37, 1000),
    ]
    sizes += [(2000, 3), (3, 2000), (333, 777), (1600, 1200)]
    images |= {f"{width}x{height}.png": encode(noise(width, height), "PNG") for width, height in sizes}
    return images
