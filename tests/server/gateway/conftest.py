"""Fixtures of the gateway's tests."""

from tests.helpers.gateway_fixtures import *  # noqa: F403
