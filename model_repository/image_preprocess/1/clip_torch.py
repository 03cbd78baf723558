"""Resize and crop in torch, bit for bit as transformers' torchvision image processor.

torchvision resizes uint8 tensors with `torch.nn.functional.interpolate`. Its bicubic, bilinear and Lanczos
kernels pass over the rows and then over the columns, and give the mirrored result for a mirrored image. So an
image is turned after it is resized, when it is small; an image whose rows become columns is resized in its
height first.

Source: `image_processing_backends.py` in huggingface/transformers, and
    `transforms/v2/functional/_geometry.py` in pytorch/vision.
"""

from __future__ import annotations

import platform
from math import inf, nextafter

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

from clip_geometry import UPRIGHT, Orientation, ProcessorSettings, resized_size

NEAREST, LANCZOS, BILINEAR, BICUBIC = "nearest-exact", "lanczos", "bilinear", "bicubic"
MODES = {
    Image.Resampling.NEAREST: NEAREST,
    Image.Resampling.LANCZOS: LANCZOS,
    Image.Resampling.BILINEAR: BILINEAR,
    Image.Resampling.BICUBIC: BICUBIC,
}
"""Modes of `interpolate` that torchvision takes for values of `resample`; it has none for the other ones."""


class TorchResizer:
    """Resizes and crops one image at a time; threads may share it, and each image takes one thread.

    Args:
        settings: The checkpoint's settings.

    Raises:
        ValueError: torch cannot resize as `settings.resample` asks.
    """

    def __init__(self, settings: ProcessorSettings) -> None:
        self._settings = settings
        try:
            self._mode = MODES[Image.Resampling(settings.resample)]
            _resized(torch.zeros(8, 8, 3, dtype=torch.uint8), (4, 4), self._mode)
        except (KeyError, ValueError, NotImplementedError) as error:
            raise ValueError(
                f"image_processor is torchvision, and torch {torch.__version__} cannot resize with resample "
                f"{settings.resample} ({Image.Resampling(settings.resample).name}); prepare the repository "
                "with --set image_preprocess.image_processor=pillow"
            ) from error

    def fit(
        self,
        rgb: np.ndarray,
        orientation: Orientation = UPRIGHT,
        size: tuple[int, int] | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Turn, resize and crop an image.

        Args:
            rgb: uint8 [height, width, 3].
            orientation: How it is turned.
            size: (width, height) of the upright image if `rgb` holds it reduced by libjpeg, whose last row
                and column may be filled in part only.
            out: uint8 [3, height, width] to write to, of size `settings.output_size`, or None.

        Returns:
            uint8 [3, height, width].

        Raises:
            MemoryError: There is not enough memory.
        """
        decoded = rgb.shape[1], rgb.shape[0]
        full = size or orientation.oriented(*decoded)
        filled = _filled(orientation.oriented(*full), decoded)
        width, height = resized_size(*full, self._settings)
        try:
            upright = self._resize(torch.from_numpy(rgb), (height, width), orientation, filled)
            chw = upright.permute(2, 0, 1)
            if self._settings.crop is not None:
                chw = _crop_centre(chw, self._settings.crop)
            target = torch.empty(chw.shape, dtype=torch.uint8) if out is None else torch.from_numpy(out)
            target.copy_(chw)
            return np.asarray(target.numpy()) if out is None else out
        except RuntimeError as error:
            if "can't allocate memory" in str(error):
                raise MemoryError(str(error)) from None
            raise

    def _resize(
        self, rgb: torch.Tensor, size: tuple[int, int], orientation: Orientation, filled: tuple[float, float]
    ) -> torch.Tensor:
        """Turn and resize to (height, width); `filled` is the (width, height) that the picture fills."""
        if self._settings.resize is None or self._mode == NEAREST:  # the nearest pixel is not symmetric
            rgb = _turned(rgb, orientation)
            return rgb if self._settings.resize is None else _resized(rgb, size, self._mode)
        if orientation.swapped:
            height, width = size
            columns = _resized(rgb, (width, rgb.shape[1]), self._mode, (rgb.shape[1], filled[1]))
            turned = columns.transpose(0, 1).contiguous()
            rgb = _resized(turned, (height, width), self._mode, (width, filled[0]))
        else:
            rgb = _resized(rgb, size, self._mode, filled)
        return _turned(rgb, Orientation(False, orientation.mirrored, orientation.flipped))


def _filled(full: tuple[int, int], decoded: tuple[int, int]) -> tuple[float, float]:
    """Return the (width, height) that a picture of a full size fills if libjpeg decodes it at another one.

    libjpeg multiplies by eighths and rounds up: an edge of 683 pixels becomes 342 pixels, of which the
    picture fills 341.5.
    """
    for eighths in range(1, 8) if decoded != full else ():
        if tuple(-(-edge * eighths // 8) for edge in full) == decoded:
            return full[0] * eighths / 8, full[1] * eighths / 8
    return decoded


def _resized(
    rgb: torch.Tensor, size: tuple[int, int], mode: str, filled: tuple[float, float] | None = None
) -> torch.Tensor:
    """Resize the filled (width, height) of uint8 [height, width, 3], like torchvision's `resize`."""
    if tuple(rgb.shape[:2]) == size:
        return rgb
    pixels = rgb.unsqueeze(0).permute(0, 3, 1, 2)  # [1, 3, height, width], channels last
    if mode == NEAREST:
        return interpolate(pixels, size, mode=mode)[0].permute(1, 2, 0)
    if mode == BILINEAR and not _has_bilinear_kernel():
        resized = interpolate(pixels.float(), size, mode=mode, align_corners=False, antialias=True)
        return resized.round_().to(torch.uint8)[0].permute(1, 2, 0)
    if filled is None or filled == (rgb.shape[1], rgb.shape[0]):
        resized = interpolate(pixels, size, mode=mode, align_corners=False, antialias=True)
    else:
        scale = tuple(map(_scale, rgb.shape, size, filled[::-1]))
        resized = interpolate(pixels, scale_factor=scale, mode=mode, align_corners=False, antialias=True)
    return resized[0].permute(1, 2, 0)


def _scale(decoded: int, size: int, filled: float) -> float:
    """Return the factor by which torch resizes an edge that the picture fills in part to this size.

    torch multiplies the decoded edge by it and rounds down.
    """
    scale = size / filled
    while int(decoded * scale) < size:  # 745 * (224 / 745) is below 224
        scale = nextafter(scale, inf)
    return scale


def _has_bilinear_kernel() -> bool:
    """Return whether torchvision takes torch's bilinear kernel for uint8 on this CPU."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in (
        "aarch64",
        "arm64",
    )


def _turned(rgb: torch.Tensor, orientation: Orientation) -> torch.Tensor:
    if orientation.swapped:
        rgb = rgb.transpose(0, 1)
    axes = [axis for axis, turned in ((0, orientation.flipped), (1, orientation.mirrored)) if turned]
    return rgb.flip(axes) if axes else rgb


def _crop_centre(chw: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Crop (height, width) from the centre; a smaller image is padded with zeros, by less at the top left."""
    for axis, wanted in zip((1, 2), size, strict=True):
        missing = wanted - chw.shape[axis]
        if missing > 0:
            shape = list(chw.shape)
            shape[axis] = wanted
            padded = chw.new_zeros(shape)
            padded.narrow(axis, missing // 2, chw.shape[axis]).copy_(chw)
            chw = padded
        elif missing < 0:
            chw = chw.narrow(axis, -missing // 2, wanted)
    return chw
