"""Python environments for clients that are too heavy, or too picky about versions, for the tests' own one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers.servers import ROOT

LISTS = Path(__file__).parent / "requirements"
ENVIRONMENTS = ROOT / "build" / "environments"
INSTALLED = "installed.txt"


def python_of(name: str) -> Path:
    """Return the Python of an environment, made from `requirements/NAME.txt` if it is missing or outdated.

    Args:
        name: Name of a list of exact versions. Its environment is kept in `build/environments/NAME`.
    """
    folder, listed = ENVIRONMENTS / name, LISTS / f"{name}.txt"
    python, installed = folder / "bin" / "python", folder / INSTALLED
    if not installed.exists() or installed.read_bytes() != listed.read_bytes():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", listed], check=True)
        shutil.copy(listed, installed)
    return python
