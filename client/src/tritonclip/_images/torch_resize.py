"""Resize and crop in torch, bit for bit as transformers' torchvision image processor.

Source: `image_processing_backends.py` in huggingface/transformers, and
    `transforms/v2/functional/_geometry.py` in pytorch/vision.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL.Image import Resampling

from tritonclip.errors import MissingExtraError

MODES = {
    Resampling.NEAREST: "nearest-exact",
    Resampling.LANCZOS: "lanczos",
    Resampling.BILINEAR: "bilinear",
    Resampling.BICUBIC: "bicubic",
}
"""Modes of `torch.nn.functional.interpolate` by values of `resample`."""
Pixels = npt.NDArray[np.uint8]


def resize(rgb: Pixels, size: tuple[int, int], resample: int) -> Pixels:
    """Resize uint8 [height, width, 3] to another (width, height).

    Raises:
        MissingExtraError: torch is not installed, or too old for the checkpoint's `resample`.
    """
    torch = _torch()
    width, height = size
    if rgb.shape[:2] == (height, width):
        return rgb
    pixels = torch.from_numpy(rgb).unsqueeze(0).permute(0, 3, 1, 2)  # [1, 3, height, width]
    mode = MODES[Resampling(resample)]
    options: dict[str, Any] = {}
    if resample != Resampling.NEAREST:
        options = {"align_corners": False, "antialias": True}
    as_float = resample == Resampling.BILINEAR and not _has_bilinear_kernel(torch)
    try:
        resized = torch.nn.functional.interpolate(
            pixels.float() if as_float else pixels, (height, width), mode=mode, **options
        )
    except (NotImplementedError, ValueError):
        raise MissingExtraError(
            f"torch {torch.__version__} cannot resize with {Resampling(resample).name}, as the server does; "
            "update torch, or use preprocess='server'"
        ) from None
    if as_float:
        resized = resized.round_().to(torch.uint8)
    return np.asarray(resized[0].permute(1, 2, 0).numpy())


def crop_centre(rgb: Pixels, size: tuple[int, int]) -> Pixels:
    """Crop (height, width) from the centre; a smaller image is padded with black, by less at the top left."""
    missing = [max(0, wanted - had) for wanted, had in zip(size, rgb.shape, strict=False)]
    if any(missing):
        rgb = np.pad(rgb, [*((side // 2, side - side // 2) for side in missing), (0, 0)])
    top, left = ((had - wanted) // 2 for wanted, had in zip(size, rgb.shape, strict=False))
    return rgb[top : top + size[0], left : left + size[1]]


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            "the server's image_processor is torchvision, and to give its pixels the client needs torch "
            f"({error}): pip install torch. Or use preprocess='server', or prepare the server's repository "
            "with --set image_preprocess.image_processor=pillow"
        ) from error
    return torch


def _has_bilinear_kernel(torch: Any) -> bool:
    """Return whether torchvision takes torch's bilinear kernel for uint8 on this CPU."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or platform.machine() in (
        "aarch64",
        "arm64",
    )
