"""The command `tritonclip` as a subprocess."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run_command(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `tritonclip` with these arguments."""
    command = [sys.executable, "-m", "tritonclip", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=300)
