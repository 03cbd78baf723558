"""Preprocessing in the client: image inputs to pixel values, bit for bit as the server makes them.

This offloads decoding, the server's most expensive step, and often shrinks what is sent. Pixel values are not
normalised; the server's `vision_encoder` does that.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from tritonclip._images import torch_resize
from tritonclip._images.files import FORMAT_SUFFIXES
from tritonclip._images.sources import Fetch, map_images, read_source, upright_rgb
from tritonclip._messages.text import HEIF_START
from tritonclip.errors import InvalidInputError, ModelNotReadyError, install_command

Pixels = npt.NDArray[np.uint8]
TORCHVISION, PILLOW = "torchvision", "pillow"
IMAGE_PROCESSORS = (TORCHVISION, PILLOW)


@dataclass(frozen=True)
class ProcessorSettings:
    """A checkpoint's image processing.

    Attributes:
        resize: (height, width), the shortest edge as one number, or None to keep the size.
        resample: One of `PIL.Image.Resampling`.
        crop: (height, width) of the centre crop, padded with black; None for no crop.
        convert_rgb: True if a transparent colour becomes white.
        image_processor: The image processor of transformers, by the library that resizes: one of
            `IMAGE_PROCESSORS`.
    """

    resize: tuple[int, int] | int | None
    resample: int
    crop: tuple[int, int] | None
    convert_rgb: bool = True
    image_processor: str = PILLOW

    @classmethod
    def from_json(cls, text: str) -> ProcessorSettings:
        """Parse the parameter `processor` of the server's `clip_pixel_embedding`.

        Raises:
            ModelNotReadyError: It is malformed. Prepare the repository again, or preprocess on the server.
        """
        try:
            given = json.loads(text)
            return cls(
                resize=_size(given["resize"], or_edge=True),
                resample=Image.Resampling(given["resample"]).value,
                crop=_size(given["crop"]),
                convert_rgb=_boolean(given["convert_rgb"]),
                image_processor=_processor(given.get("image_processor", PILLOW)),
            )
        except (ValueError, TypeError, KeyError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ModelNotReadyError(
                f"the server's image settings are malformed ({reason}): {text[:200]!r}. Prepare its model "
                "repository again with `tritonclip-server prepare`, or let the server preprocess the images.",
                model="clip_pixel_embedding",
            ) from error


def preprocess_images(
    images: Sequence[object], settings: ProcessorSettings, fetch: Fetch | None = None
) -> Pixels:
    """Preprocess several images to one array; URLs are fetched concurrently.

    Args:
        images: At least one `ImageInput`.
        settings: The image processing of the server's checkpoint.
        fetch: Fetches images given by URL; None rejects them.

    Returns:
        uint8 [n, 3, height, width], RGB, 0 to 255.

    Raises:
        InvalidInputError: An image cannot be used, or the sizes differ after preprocessing; the text names
            the image's index.
        MissingExtraError: The server's image processor needs torch, which is not installed.
    """
    pixels = map_images(
        lambda image, index: preprocess_image(image, index, settings, fetch), enumerate(images)
    )
    for index, other in enumerate(pixels):
        if other.shape != pixels[0].shape:
            raise InvalidInputError(
                f"image {index}: has {_shape(other)} pixels but image 0 has {_shape(pixels[0])}, and this "
                "checkpoint does not crop; send them one by one"
            )
    return np.stack(pixels)


def preprocess_image(
    image: object, index: int, settings: ProcessorSettings, fetch: Fetch | None = None
) -> Pixels:
    """Preprocess one image to uint8 [3, height, width]; `index` is its index in the caller's list."""
    name = f"image {index}"
    source = read_source(image, name, fetch)
    opened = _open(source, name) if isinstance(source, bytes) else source
    _check_size(opened.size, name, settings)
    upright = upright_rgb(opened, name, in_place=opened is not image)
    if settings.convert_rgb:
        upright = _on_white(upright)
    if settings.image_processor == TORCHVISION:
        rgb = np.array(upright)
        if settings.resize is not None:
            rgb = torch_resize.resize(rgb, _resized(upright.size, settings), settings.resample)
        if settings.crop is not None:
            rgb = torch_resize.crop_centre(rgb, settings.crop)
        return np.ascontiguousarray(rgb.transpose(2, 0, 1))
    if settings.resize is not None:
        upright = upright.resize(_resized(upright.size, settings), settings.resample)
    if settings.crop is not None:
        upright = _crop_centre(upright, settings.crop)
    return np.ascontiguousarray(np.asarray(upright).transpose(2, 0, 1))  # [h, w, 3] -> [3, h, w]


def _open(content: bytes, name: str) -> Image.Image:
    try:
        opened = Image.open(io.BytesIO(content), formats=_formats())
    except UnidentifiedImageError as error:
        if "HEIF" not in _formats() and re.match(HEIF_START, content, re.DOTALL):
            raise InvalidInputError(
                f"{name}: is a HEIC file, which needs the extra heif: {install_command('heif')}. Or let the "
                "server preprocess it, or convert it to JPEG"
            ) from error
        accepted = ", ".join(_formats())
        raise InvalidInputError(f"{name}: is not an image in a format accepted here ({accepted})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInputError(f"{name}: is too large: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise InvalidInputError(f"{name}: PIL cannot decode it: {error}") from error
    if opened.format == "HEIF":
        _check_boxes(content, name)
    return opened


@cache
def _formats() -> tuple[str, ...]:
    """Return the server's formats that this build of Pillow knows; Pillow fails on unknown names."""
    Image.init()  # before pillow-heif, so that Pillow's own AVIF plugin comes first: some files begin alike
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return tuple(name for name in FORMAT_SUFFIXES if name in Image.OPEN)


def _check_boxes(content: bytes, name: str) -> None:
    """Reject a HEIF file that ends within a box, because libheif leaves its missing tiles blank."""
    place, end = 0, len(content)
    while end - place >= 8:
        size = int.from_bytes(content[place : place + 4], "big")
        if size == 1:
            size = int.from_bytes(content[place + 8 : place + 16], "big")
        if size < 8:  # 0: the box reaches to the end
            return
        place += size
    if place > end:
        raise InvalidInputError(f"{name}: the HEIC file is truncated: it has {end} of {place} bytes")


def _check_size(size: tuple[int, int], name: str, settings: ProcessorSettings) -> None:
    """Reject images over Pillow's size limit, which is also the server's default."""
    limit = Image.MAX_IMAGE_PIXELS
    if 0 in size:
        return  # `upright_rgb` rejects it
    for kind, (width, height) in (("", size), (" once resized", _resized(size, settings))):
        if limit is not None and width * height > limit:
            raise InvalidInputError(
                f"{name}: is too large: {width} x {height} pixels{kind}, the limit is {limit} "
                "(PIL.Image.MAX_IMAGE_PIXELS); make it smaller"
            )


def _resized(size: tuple[int, int], settings: ProcessorSettings) -> tuple[int, int]:
    """Return (width, height) after resizing; the longer edge is rounded down."""
    if settings.resize is None:
        return size
    if isinstance(settings.resize, tuple):
        return settings.resize[1], settings.resize[0]
    edge, short = settings.resize, min(size)
    # The order of operations is that of transformers; another order rounds differently.
    width, height = (edge if side == short else int(edge * side / short) for side in size)
    return width, height


def _on_white(rgb: Image.Image) -> Image.Image:
    if rgb.info.get("transparency") is None:
        return rgb
    white = Image.new("RGBA", rgb.size, "white")
    return Image.alpha_composite(white, rgb.convert("RGBA")).convert("RGB")


def _crop_centre(rgb: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Crop (height, width) from the centre; pixels outside the image are black."""
    height, width = size
    left, top = (rgb.width - width) // 2, (rgb.height - height) // 2
    return rgb.crop((left, top, left + width, top + height))


def _shape(pixels: Pixels) -> str:
    return f"{pixels.shape[2]} x {pixels.shape[1]}"


def _size(value: Any, *, or_edge: bool = False) -> Any:
    """Return None, a tuple of two positive integers, or, with `or_edge`, one positive integer."""
    if value is None:
        return None
    sides = [value] if or_edge and not isinstance(value, list) else value
    if not isinstance(sides, list) or (sides is value and len(sides) != 2):
        raise TypeError(f"{value!r} is not a size")
    if any(type(side) is not int or side < 1 for side in sides):
        raise ValueError(f"{value!r} is not a size in pixels")
    return tuple(sides) if sides is value else value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"convert_rgb is {value!r}")
    return value


def _processor(value: Any) -> str:
    if value not in IMAGE_PROCESSORS:
        raise ValueError(f"image_processor {value!r} is unknown to this version of the client")
    return str(value)
