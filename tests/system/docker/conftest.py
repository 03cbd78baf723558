"""The gateway that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.gateway import Gateway
from tests.system.docker.pods import run_pod_gateway
from tritonclip_server.serving.launcher import EmbeddedTriton


@pytest.fixture(scope="session")
def pod_gateway(server: EmbeddedTriton, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Run a gateway with the arguments of the manifests in front of the shared server."""
    with run_pod_gateway(server.grpc_url, tmp_path_factory.mktemp("gateway")) as running:
        yield running
