"""Folders that belong to the package. A wheel contains them; in a checkout they are next to the package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
CHECKOUT = _PACKAGE.parent.parent
"""Root of the checkout. Use it only in commands that are documented to need a checkout."""


def _folder(packaged: str, in_checkout: str) -> Path:
    inside = _PACKAGE / packaged
    return inside if inside.is_dir() else CHECKOUT / in_checkout


MODEL_REPOSITORY = _folder("model_repository", "model_repository")
"""Code and configurations of the nine models; the source of every prepared repository."""
DEMO_CHECKPOINT = _folder("demo/checkpoint", "scripts/demo/checkpoint")
DEMO_IMAGES = _folder("demo/images", "scripts/demo/images")
