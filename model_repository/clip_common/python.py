"""Python processes that a model starts."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def find_python(purpose: str) -> str:
    """Return the path of an interpreter of this version; inside Triton, `sys.executable` is none.

    Args:
        purpose: Clause that says what the process is for.

    Raises:
        FileNotFoundError: There is none.
    """
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = [Path(prefix) / "bin" for prefix in (sys.prefix, sys.exec_prefix, sys.base_prefix)]
    for path in [*(folder / name for folder in folders), shutil.which(name)]:
        if path and os.access(path, os.X_OK):
            return str(path)
    raise FileNotFoundError(f"no {name} in {', '.join(map(str, dict.fromkeys(folders)))} or PATH; {purpose}")


def python_variables() -> dict[str, str]:
    """Return the environment variables that let another process import what this one can."""
    paths = [path for path in sys.path if path]
    variables = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    if "LD_LIBRARY_PATH" in os.environ:
        variables["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return variables
