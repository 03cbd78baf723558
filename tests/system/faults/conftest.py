"""The repository of the fault tests, and servers that the tests may break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.servers import Prepare
from tests.system.faults.callers import FAST, Serving, serve
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions


@pytest.fixture(scope="session")
def fault_repository(prepare: Prepare) -> Path:
    """The demo checkpoint in float32, which starts quickly and rejects no request for its wait."""
    settings = ("--set", "vision_encoder.compile=off", "--set", "admission.queue_budget_ms=600000")
    return prepare("scripts/demo/checkpoint", "--precision", "float32", *settings)


@pytest.fixture
def supervised(fault_repository: Path) -> Iterator[Serving]:
    """`serve.py` with frequent probes."""
    with serve(fault_repository, *FAST) as serving:
        yield serving


@pytest.fixture(scope="module")
def breakable(fault_repository: Path) -> Iterator[EmbeddedTriton]:
    """A server that the tests of one module may break."""
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    with EmbeddedTriton(fault_repository, options) as running:
        yield running
