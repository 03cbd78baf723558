"""Folders of the checkout, its commands as a user runs them, and the settings of the shared server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEMO_CHECKPOINT = ROOT / "scripts" / "demo" / "checkpoint"
SMALL_CACHE_BYTES = 4_000_000
"""Of the shared server: holds fewer than the 10,000 labels that one test sends."""

PRELOADED_LABELS = ["This is a photo of a preloaded label.", "ein vorab kodiertes Etikett"]
"""Of the shared server: encoded when it loads."""

Prepare = Callable[..., Path]


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a script of `scripts/` as a user does."""
    command = [sys.executable, f"scripts/{script}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
