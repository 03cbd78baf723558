"""Encoded images to upright RGB ones with Pillow, resized and cropped if that is the image processor.

The steps are those of transformers' `load_image` and its PIL image processor. For the torchvision processor,
only the first one is done here.

1. Apply the EXIF orientation and convert to RGB.
2. Resize in uint8, to a shortest edge or a fixed size.
3. Crop the centre; an image that is too small is padded with zeros.

Worker processes import this module, so it does without numpy.

Source: `image_utils.py`, `image_transforms.py` and `image_processing_backends.py` in
    huggingface/transformers.
"""

from __future__ import annotations

import importlib.util
import io
import re
import warnings
from collections.abc import Callable, Sequence
from math import ceil, inf
from typing import TypeVar

from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from clip_geometry import EXIF_ORIENTATION, PILLOW, Orientation, ProcessorSettings, crop_centre, resized_size
from clip_plain import MAX_SCANS, has_more_scans

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""
Result = TypeVar("Result")

# The size in the header is checked before decoding, so Pillow's warning would only fill the log.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation."""
HEIF = "HEIF"
"""The format of HEIC files, which Pillow reads if pillow-heif is registered."""
DEFAULT_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Formats of `image_formats=auto`, which adds HEIF if pillow-heif is installed."""
_HEIF_START = re.compile(rb".{4}ftyp(?:he[iv][cmsx]|m[is]f1)", re.DOTALL)
STRIP_PIXELS = 1 << 22
"""Pixels to copy at once."""


class ImageError(ValueError):
    """An image that cannot be used; the text completes "image 3 ..."."""


def accepted_formats(text: str) -> list[str]:
    """Parse the parameter `image_formats`: Pillow's names of formats separated by commas, or `auto`."""
    if text == "auto":
        return [*DEFAULT_FORMATS, HEIF] if _has_heif() else list(DEFAULT_FORMATS)
    # Pillow asks the formats in this order. An AVIF file may begin like a HEIC file, and is Pillow's own.
    return sorted(text.split(","), key=HEIF.__eq__)


def _has_heif() -> bool:
    return importlib.util.find_spec("pillow_heif") is not None


def _register_heif() -> None:
    """Let Pillow read the pictures of HEIF files, with one thread, and without thumbnails and depth maps."""
    if not _has_heif():
        raise ValueError(
            "image_formats names HEIF, but pillow-heif is not installed; install it on the server (pip "
            "install pillow-heif, or the extra heif of tritonclip-server), or set image_formats to auto"
        )
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


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
    """Apply the orientation and convert to RGB like transformers' `load_image`, but copy no RGB image.

    The given image may be closed, to release its memory.
    """
    image.load()
    transposition = _TRANSPOSITIONS.get(image.getexif().get(EXIF_ORIENTATION, 1))
    if transposition is not None:
        image = _replace(image, image.transpose(transposition))
    return image if image.mode == "RGB" else _replace(image, image.convert("RGB"))


def _replace(image: Image.Image, new: Image.Image) -> Image.Image:
    image.close()
    return new


def on_white(image: Image.Image) -> Image.Image:
    """Composite an RGB image with a transparent colour onto white, as transformers' conversion to RGB does.

    The image no longer has an alpha channel, because `load_image` drops it.
    """
    if image.info.get("transparency") is None:
        return image
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        strip = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        image.paste(Image.alpha_composite(white, strip).convert("RGB"), box)
    return image


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
        ImageError: The text names the limit.
    """
    if has_more_scans(encoded):
        raise ImageError(f"has more than {MAX_SCANS} JPEG scans, the limit; re-encode it")


def check_boxes(encoded: bytes) -> None:
    """Reject a HEIF file that ends within a box, because libheif leaves its missing tiles blank.

    Raises:
        ImageError: The text names the sizes.
    """
    place, end = 0, len(encoded)
    while end - place >= 8:
        size = int.from_bytes(encoded[place : place + 4], "big")
        if size == 1:
            size = int.from_bytes(encoded[place + 8 : place + 16], "big")
        if size < 8:  # 0: the box reaches to the end
            return
        place += size
    if place > end:
        raise ImageError(f"cannot be decoded because it is truncated: it has {end} of {place} bytes")


class PillowDecoder:
    """Decodes one image at a time, and resizes and crops it if Pillow is the image processor.

    Threads may share it.

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
        if HEIF in self._formats:
            _register_heif()
        unknown = [name for name in self._formats if name not in Image.OPEN]
        if unknown:
            raise ValueError(
                f"image_formats names formats that this Pillow cannot read: {', '.join(unknown)}"
            )

    def open(self, encoded: bytes) -> Image.Image:
        """Read the header of a file, and check what it claims.

        Raises:
            ImageError: The file is not an image, damaged, too large, or in a format that is not accepted.
            MemoryError: There is not enough memory.
        """
        return self._run(self._open, encoded)

    def finish(self, image: Image.Image) -> Image.Image:
        """Decode an image that `open` returned, which may be closed; with Pillow also resize and crop it.

        Raises:
            ImageError: The file is truncated or damaged.
            MemoryError: There is not enough memory.
        """
        return self._run(self._finish, image)

    def fit(self, encoded: bytes) -> Image.Image:
        """Do `open` and `finish` in one step.

        Raises:
            ImageError: See `open` and `finish`.
            MemoryError: There is not enough memory.
        """
        return self._run(lambda: self._finish(self._open(encoded)))

    def _run(self, step: Callable[..., Result], *arguments: object) -> Result:
        try:
            return step(*arguments)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files.
            message = self._describe(error)
        # A new error, because the frames of the first one keep the half-decoded image alive.
        raise ImageError(message)

    def _describe(self, error: Exception) -> str:
        if isinstance(error, ImageError):
            return str(error)
        if isinstance(error, UnidentifiedImageError):
            return f"is not an image in a format accepted here ({', '.join(self._formats)})"
        if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
            return f"is too large: the limit is {self._max_pixels} pixels (max_image_pixels)"
        details = f"{type(error).__name__}: {' '.join(str(error)[:200].split())}"
        return f"cannot be decoded because it is truncated or damaged ({details})"

    def _open(self, encoded: bytes) -> Image.Image:
        if not encoded:
            raise ImageError("is empty: it has 0 bytes")
        try:
            image = Image.open(io.BytesIO(encoded), formats=self._formats)
        except UnidentifiedImageError:
            if HEIF in self._formats or _has_heif() or not _HEIF_START.match(encoded):
                raise
            raise ImageError(
                "is a HEIC file, and the server lacks pillow-heif; install it there (pip install "
                "pillow-heif, or the extra heif of tritonclip-server), or convert the image to JPEG"
            ) from None
        check_size(*image.size, self._settings, self._max_pixels)
        if image.format == HEIF:
            check_boxes(encoded)
        if isinstance(image, JpegImageFile):
            check_scans(encoded)
        return image

    def _finish(self, image: Image.Image) -> Image.Image:
        by_pillow = self._settings.image_processor == PILLOW
        drafted = self._draft(image) if by_pillow else None
        upright = upright_rgb(image)
        if self._settings.convert_rgb:
            upright = on_white(upright)
        if not by_pillow:
            return upright
        size, box = drafted or (resized_size(*upright.size, self._settings), None)
        if self._settings.resize is not None:
            upright = upright.resize(size, self._settings.resample, box)
        return upright if self._settings.crop is None else crop_centre(upright, self._settings.crop)

    def _draft(self, image: Image.Image) -> tuple[tuple[int, int], Box] | None:
        """Let libjpeg decode a JPEG at a reduced size if the draft ratio allows it.

        Returns:
            The (width, height) to resize the upright image to, by its full size, and the part of the decoded
            image that the picture fills. For example, an edge of 683 pixels is decoded as 342 pixels, of
            which the picture fills 341.5. None if the image is decoded at full size.
        """
        if not self._draft_ratio or not isinstance(image, JpegImageFile):
            return None
        orientation, size = Orientation.of(image), image.size
        drafted = image.draft(None, self._least_size(*size, orientation))
        if drafted is None or image.size == size:
            return None
        target = resized_size(*orientation.oriented(*size), self._settings)
        filled_width, filled_height = orientation.oriented(*drafted[1][2:])  # type: ignore[arg-type]
        upright_width, upright_height = orientation.oriented(*image.size)
        left = upright_width - filled_width if orientation.mirrored else 0
        top = upright_height - filled_height if orientation.flipped else 0
        return target, (left, top, left + filled_width, top + filled_height)

    def _least_size(self, width: int, height: int, orientation: Orientation) -> tuple[int, int]:
        """Return the least (width, height) to decode a JPEG at, both not 0, as the draft ratio asks."""
        target = resized_size(*orientation.oriented(width, height), self._settings)
        least_width, least_height = (ceil(self._draft_ratio * edge) for edge in orientation.oriented(*target))
        return max(1, least_width), max(1, least_height)
