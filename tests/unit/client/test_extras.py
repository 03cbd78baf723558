"""Errors about missing extras: each gives a command for a package index, and one for a checkout."""

import re
import sys
from importlib import import_module
from unittest.mock import patch

import pytest

from tests.helpers.servers import ROOT
from tritonclip import MissingExtraError
from tritonclip._cli import formats

EXTRAS = re.findall(r"(?m)^(\w+) = \[", (ROOT / "client/pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("tritonclip.gateway", "fastapi", "gateway"),
        ("tritonclip.search._lance", "lancedb", "search"),
        ("tritonclip.spark", "pyspark", "spark"),
    ],
)
def test_missing_package_gives_the_commands_of_its_extra(module, package, extra):
    gone = [name for name in sys.modules if name.startswith((module, package))]
    with patch.dict(sys.modules):
        for name in gone:
            del sys.modules[name]
        sys.modules[package] = None
        with pytest.raises(MissingExtraError, match=f"{package}; install it with: ") as caught:
            import_module(module)
    assert_commands(str(caught.value), extra)


def test_missing_pyarrow_gives_the_commands_of_its_extra():
    with patch.dict(sys.modules, {"pyarrow": None}), pytest.raises(MissingExtraError) as caught:
        formats._pyarrow()
    assert_commands(str(caught.value), "parquet")


def assert_commands(text, extra):
    assert f'pip install "tritonclip[{extra}]"' in text
    assert f'pip install "./client[{extra}]"' in text
    assert extra in EXTRAS
