"""Choices among the four clients, for tests of code that they share."""

from __future__ import annotations

import pytest

from tritonclip import AsyncClient, Client


def _only(*clients: tuple[str, type[Client] | type[AsyncClient]]) -> pytest.MarkDecorator:
    names = [f"{protocol}-{kind.__name__}" for protocol, kind in clients]
    return pytest.mark.parametrize(("protocol", "make"), clients, indirect=True, ids=names)


ONE_CLIENT = _only(("grpc", Client))
"""Run a test that uses the fixture `make` with one client."""
BOTH_KINDS = _only(("grpc", Client), ("http", AsyncClient))
"""Run it with a synchronous and an asynchronous client, each over another protocol."""
BOTH_PROTOCOLS = _only(("grpc", Client), ("http", Client))
"""Run it over both protocols."""
