"""Processor settings of a checkpoint, and the geometry of an image: orientation, resized size and crop.

Source: `image_transforms.py` and `image_processing_backends.py` in huggingface/transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

EXIF_ORIENTATION = 0x0112
"""The EXIF tag for the orientation."""
TORCHVISION, PILLOW = "torchvision", "pillow"
IMAGE_PROCESSORS = (TORCHVISION, PILLOW)
"""The image processors of transformers, by the library that resizes."""


@dataclass(frozen=True)
class ProcessorSettings:
    """Image settings of a checkpoint, read from `processor.json` in the version directory.

    Attributes:
        resize: (height, width), the length of the shortest edge, or None.
        resample: A value of `PIL.Image.Resampling`.
        crop: (height, width) of the centre crop, or None.
        convert_rgb: Composite a transparent colour onto white.
        image_processor: One of `IMAGE_PROCESSORS`.
    """

    resize: tuple[int, int] | int | None
    resample: int
    crop: tuple[int, int] | None
    convert_rgb: bool = True
    image_processor: str = PILLOW

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> ProcessorSettings:
        """Read the JSON form, which has lists instead of tuples.

        Raises:
            ValueError: `image_processor` is none of `IMAGE_PROCESSORS`.
        """
        resize, crop, kind = settings["resize"], settings["crop"], settings["image_processor"]
        if kind not in IMAGE_PROCESSORS:
            kinds = " or ".join(IMAGE_PROCESSORS)
            raise ValueError(f"parameter 'image_processor' must be {kinds}, not '{kind}'")
        size = tuple(resize) if isinstance(resize, list) else resize
        return cls(size, settings["resample"], tuple(crop) if crop else None, settings["convert_rgb"], kind)

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(height, width) of every output, or None if it depends on the image."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)


@dataclass(frozen=True)
class Orientation:
    """An EXIF orientation as a transposition followed by mirroring.

    Attributes:
        swapped: Rows become columns.
        mirrored: Left and right are exchanged.
        flipped: Top and bottom are exchanged.
    """

    swapped: bool
    mirrored: bool
    flipped: bool

    @classmethod
    def of(cls, image: Image.Image) -> Orientation:
        """Read the orientation of an opened image; unknown values leave the image unchanged."""
        value = image.getexif().get(EXIF_ORIENTATION, 1)
        return cls(value in (5, 6, 7, 8), value in (2, 3, 6, 7), value in (3, 4, 7, 8))

    def oriented(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) after reorientation; applied twice, it returns the original size."""
        return (height, width) if self.swapped else (width, height)


UPRIGHT = Orientation(swapped=False, mirrored=False, flipped=False)


def resized_size(width: int, height: int, settings: ProcessorSettings) -> tuple[int, int]:
    """Return the (width, height) to resize an image to; the longer edge is rounded down."""
    if settings.resize is None:
        return width, height
    if isinstance(settings.resize, tuple):
        return settings.resize[1], settings.resize[0]
    edge = settings.resize
    if width <= height:
        return edge, int(edge * height / width)
    return int(edge * width / height), edge


def crop_centre(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Crop (height, width) from the centre; the area outside the image is black."""
    height, width = size
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
