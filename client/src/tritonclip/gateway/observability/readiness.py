"""Readiness check: one real inference, shared by everyone who asks within a second."""

from __future__ import annotations

import asyncio
import time

from tritonclip import AsyncClient, Health
from tritonclip.errors import TritonClipError

CACHE_S = 1.0  # /readyz needs no key, so this bounds the load that it can put on the server
TIMEOUT_S = 5.0


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
            return await self._client.health(deep=True, timeout_s=TIMEOUT_S)
        except TritonClipError:
            return "the inference server cannot be reached"
