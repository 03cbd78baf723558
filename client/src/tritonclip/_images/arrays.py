"""Pixels of other types than 8 bits: which value is white, and what is refused because nothing says so."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from tritonclip._messages.callers import warn
from tritonclip.errors import InvalidInputError

UINT8_MAX, UINT12_MAX, UINT16_MAX = 255, 4095, 65535
_TO_FRACTION = (
    "np.clip((array.astype(np.float32) - black) / (white - black), 0, 1), with black and white as the "
    "array's values of these"
)
"""Expression that makes an accepted array of any numbers."""


def pil_from_array(array: npt.NDArray[Any], name: str) -> Image.Image:
    """Convert an array [h, w], [h, w, 3] or [h, w, 4] to a PIL image.

    Args:
        array: uint8; bool; uint16 of the full range, 65535 is white; or floats from 0 to 1.
        name: The image's name in error texts, such as "image 3".

    Raises:
        InvalidInputError: The shape or the dtype is another one, or the values do not tell what is white.
    """
    if array.ndim == 4:
        raise InvalidInputError(f"{name}: got a batch of shape {array.shape}; pass list(array)")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise InvalidInputError(
            f"{name}: expected an array of shape [h, w], [h, w, 3] or [h, w, 4], got {array.shape}"
            f"{_shape_advice(array.shape)}"
        )
    if array.size == 0:
        raise InvalidInputError(f"{name}: the array has no pixels, shape {array.shape}")
    if array.dtype != np.uint8:
        array = _to_uint8(array, name)
    return Image.fromarray(np.ascontiguousarray(array))


def warn_if_clipped(image: Image.Image, name: str) -> None:
    """Warn if a PIL image of one wide channel (modes I, I;16 and F) loses nearly everything in RGB.

    Pillow clips such values to 0 to 255, and transformers and the server convert images with Pillow.
    """
    low, high = cast("tuple[float, float]", image.getextrema())
    if low < 0 or high > UINT8_MAX or (image.mode == "F" and 0 < high <= 1):
        warn(
            f"{name}: has values from {low:g} to {high:g} in mode {image.mode}, and the conversion to RGB "
            f"clips them to 0 to {UINT8_MAX}; give np.asarray(image) as uint16 of the full range, or as "
            "floats from 0 to 1"
        )


def _shape_advice(shape: tuple[int, ...]) -> str:
    if len(shape) != 3:
        return ""
    if shape[2] == 1:
        return "; use array[:, :, 0]"
    if shape[0] == 1:
        return "; use array[0]"
    return "; move the channels last: array.transpose(1, 2, 0)" if shape[0] in (3, 4) else ""


def _to_uint8(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(UINT8_MAX)
    if array.dtype.kind == "f":
        return _from_floats(array, name)
    if array.dtype.kind not in "iu":
        raise InvalidInputError(
            f"{name}: expected an array of uint8, bool, uint16 or floats, got {array.dtype}; give the pixels "
            "as one of these"
        )
    low, high = array.min(), array.max()
    if array.dtype.kind == "u" and array.dtype.itemsize == 2 and not 0 < high <= UINT8_MAX:
        return _from_uint16(array, int(high), name)
    eight_bit = "array.astype(np.uint8) if 255 is white, or else " if 0 <= low and high <= UINT8_MAX else ""
    raise InvalidInputError(
        f"{name}: {array.dtype} values from {low} to {high} do not tell which value is white; use "
        f"{eight_bit}{_TO_FRACTION}"
    )


def _from_uint16(array: npt.NDArray[np.uint16], high: int, name: str) -> npt.NDArray[np.uint8]:
    if 0 < high <= UINT12_MAX:
        warn(
            f"{name}: its uint16 values reach {high} only, and {UINT16_MAX} is white, so the image is very "
            "dark; if it has fewer bits, shift them up, for 12 bits by array << 4"
        )
    step = UINT16_MAX // UINT8_MAX
    return ((array.astype(np.uint32) + step // 2) // step).astype(np.uint8)


def _from_floats(array: npt.NDArray[np.floating[Any]], name: str) -> npt.NDArray[np.uint8]:
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        place = np.argwhere(~np.isfinite(array))[0].tolist()
        raise InvalidInputError(
            f"{name}: the array's value at {place} is {array[tuple(place)]}; expected numbers from 0 to 1"
        )
    if low < 0 or high > 1:
        raise InvalidInputError(
            f"{name}: expected floats from 0 to 1, got {low:g} to {high:g}; use {_TO_FRACTION}"
        )
    scaled: npt.NDArray[np.float32] = array.astype(np.float32) * np.float32(UINT8_MAX)
    return scaled.round().astype(np.uint8)
