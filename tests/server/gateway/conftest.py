"""Fixtures of the gateway's tests."""

from tests.helpers.gateway_fixtures import (  # noqa: F401
    axe,
    broken,
    chromium,
    clip,
    direct,
    gateway,
    gateway_with_keys,
    open_gateway,
    opened,
    pictures,
    place,
    searching,
)
