"""Encoded images to pixel values, bit by bit as transformers' PIL image processor for CLIP makes them.

`load_image` there applies the EXIF orientation and converts to RGB; the processor then resizes in uint8
(shortest edge, or a fixed size) and crops the centre, padding with zeros what is too small. Normalisation is
not done here: it belongs to the vision encoder.

Source: `image_utils.py`, `image_transforms.py` and `image_processing_backends.py` in
    huggingface/transformers.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# The header is checked against the limit before anything is decoded; Pillow's own warning would only fill
# the log.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class ImageError(ValueError):
    """An image that cannot be used: the text completes "image 3 ..."."""


@dataclass(frozen=True)
class ImageSettings:
    """How a checkpoint wants its images, from `processor.json` of the version directory.

    Attributes:
        resize: (height, width), the shortest edge as one number, or None.
        resample: One of `PIL.Image.Resampling`.
        crop: (height, width) of the centre crop, or None.
        convert_rgb: Whether a transparent colour is put onto white.
    """

    resize: tuple[int, int] | int | None
    resample: int
    crop: tuple[int, int] | None
    convert_rgb: bool = True

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> ImageSettings:
        """Reads the JSON form, in which tuples are lists."""
        resize, crop = settings["resize"], settings["crop"]
        size = tuple(resize) if isinstance(resize, list) else resize
        return cls(size, settings["resample"], tuple(crop) if crop else None, settings["convert_rgb"])


def resized_size(width: int, height: int, settings: ImageSettings) -> tuple[int, int]:
    """The (width, height) that an image is resized to; the longer edge is rounded down."""
    if settings.resize is None:
        return width, height
    if isinstance(settings.resize, tuple):
        return settings.resize[1], settings.resize[0]
    edge = settings.resize
    if width <= height:
        return edge, int(edge * height / width)
    return int(edge * width / height), edge


def crop_centre(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cuts (height, width) out of the middle of uint8 [h, w, 3], after padding with zeros what is smaller."""
    height, width = pixels.shape[:2]
    crop_height, crop_width = size
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    if top < 0 or left < 0:
        padded = np.zeros((max(height, crop_height), max(width, crop_width), 3), np.uint8)
        pad_top, pad_left = ceil((len(padded) - height) / 2), ceil((padded.shape[1] - width) / 2)
        padded[pad_top : pad_top + height, pad_left : pad_left + width] = pixels
        pixels, top, left = padded, top + pad_top, left + pad_left
    return pixels[top : top + crop_height, left : left + crop_width]


def upright_rgb(image: Image.Image) -> Image.Image:
    """What transformers' `load_image` makes of an opened image, without its two copies of an RGB image."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image if image.mode == "RGB" else image.convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    """Puts an RGB image with a transparent colour onto white, as transformers' conversion to RGB does.

    An alpha channel is gone by then: `load_image` drops it, whatever lies under it.
    """
    if image.info.get("transparency") is None:
        return image
    background = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")


class ImageDecoder:
    """Decodes, resizes and crops one image at a time; safe to share between threads.

    Args:
        settings: What the checkpoint wants.
        formats: Pillow's names of the formats to accept; the others are never tried.
        max_pixels: Limit on width x height, of the file and of its resized form.
    """

    def __init__(self, settings: ImageSettings, formats: Sequence[str], max_pixels: int) -> None:
        self._settings, self._formats, self._max_pixels = settings, tuple(formats), max_pixels
        Image.MAX_IMAGE_PIXELS = max_pixels
        Image.init()
        unknown = [name for name in self._formats if name not in Image.OPEN]
        if unknown:
            raise ValueError(
                f"image_formats names formats that this Pillow cannot read: {', '.join(unknown)}"
            )

    def decode(self, encoded: bytes) -> np.ndarray:
        """An encoded file -> uint8 [3, height, width].

        Raises:
            ImageError: Not an image, damaged, of a format not accepted, or too large.
        """
        if not encoded:
            raise ImageError("is empty: it has 0 bytes")
        try:
            with Image.open(io.BytesIO(encoded), formats=self._formats) as image:
                self._check_size(image.width, image.height)
                upright = upright_rgb(image)
                if self._settings.convert_rgb:
                    upright = on_white(upright)
        except ImageError:
            raise
        except UnidentifiedImageError as error:
            accepted = ", ".join(self._formats)
            raise ImageError(f"is not an image in a format accepted here ({accepted})") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageError(
                f"is too large: the limit is {self._max_pixels} pixels (max_image_pixels)"
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files.
            raise ImageError(
                f"cannot be decoded, it is truncated or damaged ({type(error).__name__}: {error})"
            ) from error
        return self._fit(upright)

    def _check_size(self, width: int, height: int) -> None:
        for kind, (w, h) in (
            ("", (width, height)),
            (" once resized", resized_size(width, height, self._settings)),
        ):
            if w * h > self._max_pixels:
                raise ImageError(
                    f"is too large: {w} x {h} pixels{kind}, "
                    f"the limit is {self._max_pixels} (max_image_pixels)"
                )

    def _fit(self, image: Image.Image) -> np.ndarray:
        size = resized_size(image.width, image.height, self._settings)
        if self._settings.resize is not None:
            image = image.resize(size, self._settings.resample)
        pixels = np.asarray(image)
        if self._settings.crop is not None:
            pixels = crop_centre(pixels, self._settings.crop)
        return pixels.transpose(2, 0, 1)  # [h, w, 3] -> [3, h, w]
