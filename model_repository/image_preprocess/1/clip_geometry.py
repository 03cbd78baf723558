"""What size an image gets, which part of it counts, and which way up it stands.

Source: `image_transforms.py` and `image_processing_backends.py` in huggingface/transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

ORIENTATION = 0x0112
"""The EXIF tag that says how an image is to be turned."""


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

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(height, width) of every output, or None where it depends on the image."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)


@dataclass(frozen=True)
class Turn:
    """What an EXIF orientation asks for: first to swap the axes, then to mirror.

    Attributes:
        swapped: Whether rows become columns.
        mirrored: Whether left and right are exchanged.
        flipped: Whether top and bottom are exchanged.
    """

    swapped: bool
    mirrored: bool
    flipped: bool

    @classmethod
    def of(cls, image: Image.Image) -> Turn:
        """Reads the orientation of an opened image; an unknown one asks for nothing."""
        value = image.getexif().get(ORIENTATION, 1)
        return cls(value in (5, 6, 7, 8), value in (2, 3, 6, 7), value in (3, 4, 7, 8))

    def size(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) of the turned image; the same function turns it back."""
        return (height, width) if self.swapped else (width, height)


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


def crop_centre(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cuts (height, width) out of the middle; what lies outside the image comes out black."""
    height, width = size
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
