"""Programs of Debian packages that some tests need."""

from __future__ import annotations

import os
import shutil

import pytest

MISSING = "missing program"
"""Start of the reason of a skipped test, which the closing report looks for."""


def require(program: str, package: str) -> str:
    """Return the path of a program. If it is missing, skip the test, or fail if `CI` is set."""
    if found := shutil.which(program):
        return found
    reason = f"{MISSING} {program}: apt-get install {package}"
    if "CI" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)
