"""Paths of the checkout, its programs as a user runs them, and settings of the shared server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEMO_CHECKPOINT = ROOT / "scripts" / "demo" / "checkpoint"
SMALL_CACHE_BYTES = 4_000_000
"""Label cache of the shared server: less than the 10,000 labels of one test need."""

PRELOADED_LABELS = ["This is a photo of a preloaded label.", "ein vorab kodiertes Etikett"]
"""Labels that the shared server encodes when it loads."""

Prepare = Callable[..., Path]


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script of `scripts/` from the checkout."""
    command = [sys.executable, f"scripts/{script}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python code in a new interpreter."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
