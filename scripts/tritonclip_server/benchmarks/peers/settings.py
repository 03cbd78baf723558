"""Settings that the peers have in common: the precision and the image processor."""

from __future__ import annotations

import importlib.util
from typing import Any

from tritonclip_server.benchmarks.machine import has_bfloat16


def precision() -> str:
    """Return "bfloat16" if the CPU has instructions for it, otherwise "float32"."""
    return "bfloat16" if has_bfloat16() else "float32"


def has_torchvision() -> bool:
    """Return whether transformers can import torchvision, which its default image processor needs."""
    return importlib.util.find_spec("torchvision") is not None


def load_image_processor(model: str) -> Any:
    """Load the image processor that a user of transformers gets here.

    Args:
        model: A directory or a hub id.

    Returns:
        The default processor if torchvision is installed, otherwise transformers' processor for Pillow.
    """
    from transformers import AutoImageProcessor, CLIPImageProcessorPil  # the report does not need it

    kind = AutoImageProcessor if has_torchvision() else CLIPImageProcessorPil
    return kind.from_pretrained(model)
