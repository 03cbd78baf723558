"""Readiness check: one real inference, shared by everyone who asks within a second."""

from __future__ import annotations

import asyncio
import logging
import time

from tritonclip import AsyncClient, Health
from tritonclip.errors import AccessDeniedError, DeadlineExceededError, TritonClipError

CACHE_S = 1.0  # /readyz needs no key, so this bounds the load that it can put on the server
TIMEOUT_S = 5.0
_logger = logging.getLogger("tritonclip.gateway")


class ReadinessCheck:
    """Deep health check of the server, cached for a second.

    Args:
        client: The gateway's client.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._lock = asyncio.Lock()
        self._cached: Health | str = "not checked yet"
        self._checked_s = float("-inf")

    async def health(self) -> Health | str:
        """Return the server's health, or a message if the server cannot be reached."""
        async with self._lock:
            if time.monotonic() - self._checked_s > CACHE_S:
                self._cached = await self._check()
                self._checked_s = time.monotonic()
            return self._cached

    async def _check(self) -> Health | str:
        try:
            health = await self._client.health(deep=True, timeout_s=TIMEOUT_S)
        except TritonClipError as error:
            _logger.warning("not ready: %s", error)
            return _failed_call(error)
        if not health.ok:
            _logger.warning("not ready: %s", health.reason or describe_unready(health))
        return health


def _failed_call(error: TritonClipError) -> str:
    if isinstance(error, DeadlineExceededError):
        return f"the inference server did not answer within {TIMEOUT_S:g} s"
    if isinstance(error, AccessDeniedError):
        return "the inference server rejects the gateway's key or headers"
    return "the inference server cannot be reached"


def describe_unready(health: Health) -> str:
    """Return the part that is not ready, without the texts of the transport, which go to the log.

    Args:
        health: A deep health that is not `ok`.
    """
    if not (health.live and health.ready):
        return "the inference server is not ready"
    if missing := [name for name, ready in health.models.items() if not ready]:
        return f"not ready: {', '.join(missing)}"
    if health.inference == "timeout":
        return f"the models are ready, but a test image got no answer within {TIMEOUT_S:g} s"
    return "the models are ready, but the inference of a test image failed; see the gateway's log"
