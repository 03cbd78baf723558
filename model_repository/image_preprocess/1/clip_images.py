"""Encoded images to pixel values, bit for bit as transformers' PIL image processor for CLIP computes them.

The steps are those of transformers' `load_image` and the processor:

1. Apply the EXIF orientation and convert to RGB.
2. Resize in uint8, to a shortest edge or a fixed size.
3. Crop the centre; an image that is too small is padded with zeros.

The vision encoder normalises the pixels.

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

from clip_geometry import Orientation, ProcessorSettings, crop_centre, resized_size

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""

# The size in the header is checked before decoding, so Pillow's warning would only fill the log.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

MAX_JPEG_SCANS = 100
"""Limit on the scans of a JPEG, the same as libtiff's.

For a scan of a few bytes, libjpeg makes a pass over the whole image. Encoders write about ten scans.
"""
_START_OF_SCAN = b"\xff\xda"


class ImageError(ValueError):
    """An image that cannot be used; the text completes "image 3 ..."."""


def draft_ratio(text: str) -> float:
    """Parse the parameter `jpeg_draft`.

    Raises:
        ValueError: It is neither 0 nor a number of at least 1.
    """
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1
    if ratio == 0 or 1 <= ratio < inf:
        return ratio
    raise ValueError(f"parameter 'jpeg_draft' must be 0 or a number of at least 1, not '{text}'")


def upright_rgb(image: Image.Image) -> Image.Image:
    """Apply the orientation and convert to RGB like transformers' `load_image`, but copy no RGB image."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image if image.mode == "RGB" else image.convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    """Composite an RGB image with a transparent colour onto white, as transformers' conversion to RGB does.

    The image no longer has an alpha channel, because `load_image` drops it.
    """
    if image.info.get("transparency") is None:
        return image
    background = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")


def check_size(width: int, height: int, settings: ProcessorSettings, max_pixels: int) -> None:
    """Reject an image that has more than `max_pixels`, or would have after resizing.

    Raises:
        ImageError: The text names the size and the limit.
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
    """Reject a JPEG with so many scans that a few kilobytes would take minutes to decode.

    Raises:
        ImageError: The text names the number of scans and the limit.
    """
    scans = encoded.count(_START_OF_SCAN)  # compressed data has a zero byte after each 0xff
    if scans > MAX_JPEG_SCANS:
        raise ImageError(f"has too many JPEG scans: {scans}, the limit is {MAX_JPEG_SCANS}; re-encode it")


class ImageDecoder:
    """Decodes, resizes and crops one image at a time; threads may share it.

    Args:
        settings: The checkpoint's settings.
        formats: Pillow's names of the accepted formats; Pillow does not try any other.
        max_pixels: Limit on width x height, before and after resizing.
        draft: Least ratio of a decoded JPEG's edges to the resized ones. Larger JPEGs are decoded at 1/2, 1/4
            or 1/8 of their size, which changes the pixels. 0 decodes every JPEG at full size.
    """

    def __init__(
        self, settings: ProcessorSettings, formats: Sequence[str], max_pixels: int, draft: float = 0
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
        """Decode, resize and crop an image.

        Args:
            encoded: The content of the file.
            out: uint8 [3, height, width] to write to, of size `settings.output_size`, or None.

        Returns:
            uint8 [3, height, width].

        Raises:
            ImageError: The file is not an image, damaged, too large, or in a format that is not accepted.
        """
        try:
            opened = self._open(encoded)
        except ImageError as error:
            message = str(error)
        else:
            message = ""
        if message:  # A new error, because the frames of the first one keep the half-decoded image alive.
            raise ImageError(message)
        image = self._fit(*opened)
        if out is None:
            out = np.empty((3, image.height, image.width), np.uint8)
        for plane, band in zip(out, image.split(), strict=True):
            plane[...] = np.asarray(band)
        return out

    def _open(self, encoded: bytes) -> tuple[Image.Image, tuple[int, int], Box | None]:
        """Return the upright image, the (width, height) to resize it to, and the part of it to resize."""
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
                f"cannot be decoded because it is truncated or damaged ({type(error).__name__}: {error})"
            ) from error
        size, box = drafted or (resized_size(*upright.size, self._settings), None)
        return upright, size, box

    def _draft(self, image: Image.Image) -> tuple[tuple[int, int], Box] | None:
        """Let libjpeg decode a JPEG at a reduced size if the draft ratio allows it.

        Returns:
            The (width, height) to resize the upright image to, by its full size, and the part of the decoded
            image that the picture fills. For example, an edge of 683 pixels is decoded as 342 pixels, of
            which the picture fills 341.5. None if the image is decoded at full size.
        """
        if not self._draft_ratio or not isinstance(image, JpegImageFile):
            return None
        orientation, (width, height) = Orientation.of(image), image.size
        target = resized_size(*orientation.oriented(width, height), self._settings)
        least_width, least_height = (
            max(1, ceil(self._draft_ratio * edge)) for edge in orientation.oriented(*target)
        )
        drafted = image.draft(None, (least_width, least_height))
        if drafted is None or image.size == (width, height):
            return None
        filled_width, filled_height = orientation.oriented(*drafted[1][2:])  # type: ignore[arg-type]
        upright_width, upright_height = orientation.oriented(*image.size)
        left = upright_width - filled_width if orientation.mirrored else 0
        top = upright_height - filled_height if orientation.flipped else 0
        return target, (left, top, left + filled_width, top + filled_height)

    def _fit(self, image: Image.Image, size: tuple[int, int], box: Box | None) -> Image.Image:
        if self._settings.resize is not None:
            image = image.resize(size, self._settings.resample, box)
        return image if self._settings.crop is None else crop_centre(image, self._settings.crop)
