"""Whether an image can be classified now, by a true inference that many who ask share."""

from __future__ import annotations

import asyncio
import time

from tritonclip import AsyncClient, Health
from tritonclip.errors import TritonClipError

SHARED_FOR_S = 1.0  # so that anyone may ask, without a key, and the server is asked once a second at most
TIMEOUT_S = 5.0


class Readiness:
    """Asks the server, and keeps the answer for a second.

    Args:
        client: The gateway's.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._lock = asyncio.Lock()
        self._kept: Health | str = "not asked yet"
        self._asked_s = float("-inf")

    async def ask(self) -> Health | str:
        """The server's health, by a true inference; a text where no server answers."""
        async with self._lock:
            if time.monotonic() - self._asked_s > SHARED_FOR_S:
                self._kept = await self._ask()
                self._asked_s = time.monotonic()
            return self._kept

    async def _ask(self) -> Health | str:
        try:
            return await self._client.health(deep=True, timeout_s=TIMEOUT_S)
        except TritonClipError:
            return "the inference server cannot be reached"
