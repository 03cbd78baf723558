"""Image inputs to pixel values in the client, bit for bit as the server's `image_preprocess` makes them.

Spares the server the decoding, its dearest step, and the network the larger file. Nothing is normalised: that
belongs to the server's `vision_encoder`.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from tritonclip._images.files import FORMAT_SUFFIXES
from tritonclip._images.sources import Fetch, as_images, map_images, read_source, upright_rgb
from tritonclip.errors import InvalidInputError, ModelNotReadyError

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PreprocessSettings:
    """How a checkpoint wants its images.

    Attributes:
        resize: (height, width), the shortest edge as one number, or None to leave the size.
        resample: One of `PIL.Image.Resampling`.
        crop: (height, width) of the centre crop, filled up with black; None for no crop.
        convert_rgb: Whether a transparent colour is put onto white.
    """

    resize: tuple[int, int] | int | None
    resample: int
    crop: tuple[int, int] | None
    convert_rgb: bool = True

    @classmethod
    def from_json(cls, text: str) -> PreprocessSettings:
        """The settings from the parameter `processor` of the server's `clip_pixel_embedding`.

        Raises:
            ModelNotReadyError: If they are malformed. Write the repository anew, or preprocess on the server.
        """
        try:
            given = json.loads(text)
            return cls(
                resize=_size(given["resize"], or_edge=True),
                resample=Image.Resampling(given["resample"]).value,
                crop=_size(given["crop"]),
                convert_rgb=_boolean(given["convert_rgb"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ModelNotReadyError(
                f"the server's image settings are malformed ({reason}): {text[:200]!r}. Write its model "
                "repository anew with scripts/prepare_weights.py, or let the server preprocess the images.",
                model="clip_pixel_embedding",
            ) from error


def preprocess_images(
    images: object, settings: PreprocessSettings, fetch: Fetch | None = None
) -> tuple[Pixels, bool]:
    """Preprocess one image, or a list or tuple of them.

    Args:
        images: One `ImageInput`, or a list or tuple of any number above 0 of them.
        settings: What the server's checkpoint wants.
        fetch: Fetches the images given by URL; None refuses them.

    Returns:
        uint8 [n, 3, height, width], RGB, 0 to 255; and whether a single image was given.

    Raises:
        InvalidInputError: If there is no image, one cannot be used, or their sizes differ in the end; names
            its index.
    """
    several, single = as_images(images)
    pixels = map_images(
        lambda image, index: preprocess_image(image, index, settings, fetch), enumerate(several)
    )
    for index, other in enumerate(pixels):
        if other.shape != pixels[0].shape:
            raise InvalidInputError(
                f"image {index}: has {_shape(other)} pixels where image 0 has {_shape(pixels[0])}, and this "
                "checkpoint crops none; send them one by one"
            )
    return np.stack(pixels), single


def preprocess_image(
    image: object, index: int, settings: PreprocessSettings, fetch: Fetch | None = None
) -> Pixels:
    """Preprocess one image to uint8 [3, height, width]; `index` is its place in the caller's list."""
    where = f"image {index}"
    source = read_source(image, where, fetch)
    opened = _open(source, where) if isinstance(source, bytes) else source
    _check_size(opened.size, where, settings)
    upright = upright_rgb(opened, where, in_place=opened is not image)
    if settings.convert_rgb:
        upright = _on_white(upright)
    if settings.resize is not None:
        upright = upright.resize(_resized(upright.size, settings), settings.resample)
    if settings.crop is not None:
        upright = _crop_centre(upright, settings.crop)
    return np.ascontiguousarray(np.asarray(upright).transpose(2, 0, 1))  # [h, w, 3] -> [3, h, w]


def _open(content: bytes, where: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=_formats())
    except UnidentifiedImageError as error:
        accepted = ", ".join(_formats())
        raise InvalidInputError(f"{where}: is not an image in a format accepted here ({accepted})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInputError(f"{where}: is too large: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise InvalidInputError(f"{where}: PIL cannot decode it: {error}") from error


@cache
def _formats() -> tuple[str, ...]:
    """Of the formats that the server accepts, those that this Pillow reads; it fails on an unknown name."""
    Image.init()
    return tuple(name for name in FORMAT_SUFFIXES if name in Image.OPEN)


def _check_size(size: tuple[int, int], where: str, settings: PreprocessSettings) -> None:
    """Refuse what the server refuses, by Pillow's limit, which is also the server's default."""
    limit = Image.MAX_IMAGE_PIXELS
    if 0 in size:
        return  # `upright_rgb` refuses it
    for kind, (width, height) in (("", size), (" once resized", _resized(size, settings))):
        if limit is not None and width * height > limit:
            raise InvalidInputError(
                f"{where}: is too large: {width} x {height} pixels{kind}, the limit is {limit} "
                "(PIL.Image.MAX_IMAGE_PIXELS); make it smaller"
            )


def _resized(size: tuple[int, int], settings: PreprocessSettings) -> tuple[int, int]:
    """The (width, height) after resizing; a longer edge is rounded down."""
    if settings.resize is None:
        return size
    if isinstance(settings.resize, tuple):
        return settings.resize[1], settings.resize[0]
    edge, short = settings.resize, min(size)
    # In this order of operations, as transformers has it: another rounds otherwise.
    width, height = (edge if side == short else int(edge * side / short) for side in size)
    return width, height


def _on_white(rgb: Image.Image) -> Image.Image:
    if rgb.info.get("transparency") is None:
        return rgb
    white = Image.new("RGBA", rgb.size, "white")
    return Image.alpha_composite(white, rgb.convert("RGBA")).convert("RGB")


def _crop_centre(rgb: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cut (height, width) out of the middle; what lies outside the image comes out black."""
    height, width = size
    left, top = (rgb.width - width) // 2, (rgb.height - height) // 2
    return rgb.crop((left, top, left + width, top + height))


def _shape(pixels: Pixels) -> str:
    return f"{pixels.shape[2]} x {pixels.shape[1]}"


def _size(value: Any, *, or_edge: bool = False) -> Any:
    """None, two whole numbers above 0, or, with `or_edge`, one."""
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
