"""Fixtures of `tests/server`."""

from tests.server.conftest import make, protocol  # noqa: F401
