"""Gateways in front of the shared embedded Triton: one that is open, and one that wants keys."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from gateway_keys import KEY, KEY_LINE

from gateway_launcher import GatewayProcess, running
from triton_launcher import EmbeddedTriton


@pytest.fixture(scope="session")
def open_gateway(server: EmbeddedTriton) -> Iterator[GatewayProcess]:
    """A gateway that everyone may call."""
    with running(server.grpc_url) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def gateway(open_gateway: GatewayProcess) -> str:
    """Its address."""
    return open_gateway.url


@pytest.fixture(scope="session")
def gateway_with_keys(server: EmbeddedTriton) -> Iterator[GatewayProcess]:
    """A gateway with one API key."""
    with running(server.grpc_url, environ={"TRITONCLIP_GATEWAY_KEYS": KEY_LINE}, key=KEY) as gateway:
        yield gateway


@pytest.fixture
def unused_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
