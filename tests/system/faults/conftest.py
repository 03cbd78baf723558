"""The repositories of the fault tests, and the server that most of them share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.gate import Gate
from tests.helpers.servers import Prepare, Servers
from tests.helpers.variants import UNCOMPILED
from tests.system.faults.callers import FAST, Serving, serve


@pytest.fixture(scope="session")
def fault_repository(prepare: Prepare) -> Path:
    """The demo checkpoint in float32, which starts quickly and rejects no request for its wait."""
    budget = ("--set", "admission.queue_budget_ms=3600000")
    return prepare("scripts/demo/checkpoint", "--precision", "float32", *UNCOMPILED, *budget)


@pytest.fixture
def own_repository(fault_repository: Path, tmp_path: Path) -> Path:
    """A copy of the repository that a test may change."""
    return Path(shutil.copytree(fault_repository, tmp_path / "models", symlinks=True))


@pytest.fixture
def own_gate(own_repository: Path, tmp_path: Path) -> Gate:
    """A gate in front of the vision encoder of `own_repository`."""
    gate = Gate(tmp_path)
    gate.install(own_repository, "vision_encoder")
    return gate


@pytest.fixture(scope="session")
def supervised(fault_repository: Path, servers: Servers) -> Iterator[Serving]:
    """`serve.py` with frequent probes. Each test leaves it healthy, whatever it has done to it."""
    with serve(servers, "faults: it is killed, and callers disconnect", fault_repository, *FAST) as serving:
        yield serving
