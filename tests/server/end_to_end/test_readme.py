"""The examples of the front page run against the real server."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.servers import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    """Return the blocks that call the server; tests/server/gateway runs those that call a gateway."""
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [block for block in found if ":8080" not in block]


def with_addresses_of(server, block):
    return block.replace("localhost:8001", server.grpc_url).replace("localhost:8000", server.http_url)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_examples_run(server, block, monkeypatch):
    monkeypatch.chdir(ROOT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(with_addresses_of(server, block), "README.md", "exec"), {})
    assert "a red circle" in printed.getvalue()


@pytest.mark.parametrize("block", blocks("sh"))
def test_shell_examples_run(server, block):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", with_addresses_of(server, block)],
        cwd=ROOT,
        env=os.environ | {"PATH": path, "TRITONCLIP_URL": server.grpc_url},  # in place of the default port
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "the digit 7" in done.stdout or '"token_counts"' in done.stdout


def test_readme_has_examples():
    assert len(blocks("python")) == 1
    assert len(blocks("sh")) == 2
