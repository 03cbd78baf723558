"""Programs of Debian packages that some tests need."""

from __future__ import annotations

import os
import re
import shutil
from typing import NoReturn

import pytest

MISSING = "missing program"
"""Start of the reason of a skipped test, which the closing report looks for."""


def require(program: str, packages: str) -> str:
    """Return the path of a program. If it is missing, skip the test, or fail if `CI` is set.

    Args:
        program: Name of the program.
        packages: Debian packages that install it, separated by spaces.
    """
    if found := shutil.which(program):
        return found
    skip_without(program, packages)


def skip_without(program: str, packages: str) -> NoReturn:
    """Skip the test for a missing program, or fail if `CI` is set."""
    skip_unless_ci(f"{MISSING} {program}: apt-get install {packages}")


def skip_unless_ci(reason: str) -> NoReturn:
    """Skip a test that this machine cannot run, or fail it if `CI` is set."""
    if "CI" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)


def missing_packages(reason: str) -> list[str]:
    """Return the packages that the reason of a skipped test names."""
    found = re.search(rf"{MISSING} .*: apt-get install ([\w. +-]+)", reason)
    return found[1].split() if found else []
