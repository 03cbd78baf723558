"""Runs of loadtest/run.py, in a process because locust patches the standard library."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.helpers.servers import ROOT
from tritonclip_server.serving.launcher import EmbeddedTriton

requires_locust = pytest.mark.skipif(
    importlib.util.find_spec("locust") is None, reason="locust is not installed; it requires Python 3.11"
)
ENDLESS_S = 3600
"""Length of a run that its test ends."""


def urls(server: EmbeddedTriton) -> list[str]:
    """Return the options that name a server."""
    http = f"http://{server.http_url}"
    return ["--url", server.grpc_url, "--http-url", http, "--metrics-url", server.metrics_url]


def start_load(*arguments: object, environ: dict[str, str], **settings: str) -> subprocess.Popen[str]:
    """Start a run; `settings` are the variables TRITONCLIP_LOAD_*."""
    command = [sys.executable, "loadtest/run.py", *map(str, arguments)]
    environment = dict(os.environ) | {f"TRITONCLIP_LOAD_{name}": value for name, value in settings.items()}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment | environ, stdout=pipe, stderr=pipe, text=True)


def run_load(*arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run to the end; `settings` are the variables TRITONCLIP_LOAD_*."""
    with start_load(*arguments, environ={}, **settings) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
