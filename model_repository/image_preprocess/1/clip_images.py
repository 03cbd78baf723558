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
from math import ceil, inf

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from clip_geometry import ImageSettings, Turn, crop_centre, resized_size

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""

# The header is checked against the limit before anything is decoded; Pillow's own warning would only fill
# the log.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


MAX_JPEG_SCANS = 100
"""A scan of a few bytes costs libjpeg a pass over the whole image; encoders write about ten. libtiff keeps to
the same limit."""
_START_OF_SCAN = b"\xff\xda"


class ImageError(ValueError):
    """An image that cannot be used: the text completes "image 3 ..."."""


def draft_ratio(text: str) -> float:
    """Reads the parameter `jpeg_draft`: 0, or a number of at least 1; ValueError where it is neither."""
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1
    if ratio == 0 or 1 <= ratio < inf:
        return ratio
    raise ValueError(f"parameter 'jpeg_draft' must be 0 or a number of at least 1, not '{text}'")


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


def check_size(width: int, height: int, settings: ImageSettings, max_pixels: int) -> None:
    """Refuses an image of more pixels than allowed, or that would have more once resized.

    Raises:
        ImageError: Names the size and the limit.
    """
    for kind, (w, h) in (
        ("", (width, height)),
        (" once resized", resized_size(width, height, settings)),
    ):
        if w * h > max_pixels:
            raise ImageError(
                f"is too large: {w} x {h} pixels{kind}, the limit is {max_pixels} (max_image_pixels)"
            )


def check_scans(encoded: bytes) -> None:
    """Refuses a JPEG of so many scans that some kilobytes would take minutes to decode.

    Raises:
        ImageError: Names the number and the limit.
    """
    scans = encoded.count(_START_OF_SCAN)  # in compressed data a zero follows each 0xff
    if scans > MAX_JPEG_SCANS:
        raise ImageError(f"has too many JPEG scans: {scans}, the limit is {MAX_JPEG_SCANS}; encode it anew")


class ImageDecoder:
    """Decodes, resizes and crops one image at a time; safe to share between threads.

    Args:
        settings: What the checkpoint wants.
        formats: Pillow's names of the formats to accept; the others are never tried.
        max_pixels: Limit on width x height, of the file and of its resized form.
        draft: Least ratio of a decoded JPEG's edges to the resized ones: larger JPEGs are decoded at 1/2, 1/4
            or 1/8 of their size, which changes the pixels. 0: never.
    """

    def __init__(
        self, settings: ImageSettings, formats: Sequence[str], max_pixels: int, draft: float = 0
    ) -> None:
        self._settings, self._formats, self._max_pixels = settings, tuple(formats), max_pixels
        self._draft_ratio = draft if settings.resize is not None else 0
        Image.MAX_IMAGE_PIXELS = max_pixels
        Image.init()
        unknown = [name for name in self._formats if name not in Image.OPEN]
        if unknown:
            raise ValueError(
                f"image_formats names formats that this Pillow cannot read: {', '.join(unknown)}"
            )

    def decode(self, encoded: bytes, out: np.ndarray | None = None) -> np.ndarray:
        """Decodes an encoded file.

        Args:
            encoded: The file.
            out: uint8 [3, height, width] to write to, of `ImageSettings.output_size`; a new array where None.

        Returns:
            uint8 [3, height, width].

        Raises:
            ImageError: Not an image, damaged, of a format not accepted, or too large.
        """
        try:
            opened = self._open(encoded)
        except ImageError as error:
            refusal = str(error)
        else:
            refusal = ""
        if refusal:  # Raised anew, since the frames of the first one keep the half-decoded image alive.
            raise ImageError(refusal)
        image = self._fit(*opened)
        if out is None:
            out = np.empty((3, image.height, image.width), np.uint8)
        for plane, band in zip(out, image.split(), strict=True):
            plane[...] = np.asarray(band)
        return out

    def _open(self, encoded: bytes) -> tuple[Image.Image, tuple[int, int], Box | None]:
        """The upright image, the (width, height) to resize it to, and the part of it to resize."""
        if not encoded:
            raise ImageError("is empty: it has 0 bytes")
        try:
            with Image.open(io.BytesIO(encoded), formats=self._formats) as image:
                check_size(*image.size, self._settings, self._max_pixels)
                if isinstance(image, JpegImageFile):
                    check_scans(encoded)
                drafted = self._draft(image)
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
        size, box = drafted or (resized_size(*upright.size, self._settings), None)
        return upright, size, box

    def _draft(self, image: Image.Image) -> tuple[tuple[int, int], Box] | None:
        """Has libjpeg decode a JPEG smaller where that is asked for and enough.

        Returns:
            What the upright image is to be resized to, by its true size, and the part of the decoded one that
            the file fills: an edge of 683 pixels comes out as 342, of which it fills 341.5. None where the
            image is decoded whole.
        """
        if not self._draft_ratio or not isinstance(image, JpegImageFile):
            return None
        turn, (width, height) = Turn.of(image), image.size
        target = resized_size(*turn.size(width, height), self._settings)
        least_width, least_height = (max(1, ceil(self._draft_ratio * edge)) for edge in turn.size(*target))
        drafted = image.draft(None, (least_width, least_height))
        if drafted is None or image.size == (width, height):
            return None
        filled_width, filled_height = turn.size(*drafted[1][2:])  # type: ignore[arg-type]
        upright_width, upright_height = turn.size(*image.size)
        left = upright_width - filled_width if turn.mirrored else 0
        top = upright_height - filled_height if turn.flipped else 0
        return target, (left, top, left + filled_width, top + filled_height)

    def _fit(self, image: Image.Image, size: tuple[int, int], box: Box | None) -> Image.Image:
        if self._settings.resize is not None:
            image = image.resize(size, self._settings.resample, box)
        return image if self._settings.crop is None else crop_centre(image, self._settings.crop)
