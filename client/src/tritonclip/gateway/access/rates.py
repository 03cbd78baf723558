"""Rate limit per caller, counted in a sliding window by the package `limits`."""

from __future__ import annotations

import logging
import math
import time

import limits
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.storage import storage_from_string

from tritonclip.gateway._problems import Problem

log = logging.getLogger("tritonclip.gateway")


class RateLimiter:
    """Sliding-window request counter for each caller.

    Args:
        rates: One or more rates such as `100/minute`, separated by `;`.
        storage: See `GatewaySettings.rate_storage`.
    """

    def __init__(self, rates: str, storage: str) -> None:
        self._rates = limits.parse_many(rates)
        uri = storage if storage.startswith("async+") else f"async+{storage}"
        self._strategy = SlidingWindowCounterRateLimiter(storage_from_string(uri))

    async def count(self, caller: str) -> None:
        """Count a request of a caller.

        If the storage fails, every request is admitted: a limit that protects the server from one caller
        must not lock out all of them.

        Raises:
            Problem: 429 with Retry-After if the request exceeds a limit.
        """
        try:
            for rate in self._rates:
                if not await self._strategy.hit(rate, caller):
                    raise await self._rejection(rate, caller)
        except Problem:
            raise
        except Exception as error:  # any error of the storage's own library
            log.error("rate limit storage failed; admitting the request", extra={"cause": str(error)})

    async def _rejection(self, rate: limits.RateLimitItem, caller: str) -> Problem:
        reset_s, _ = await self._strategy.get_window_stats(rate, caller)
        wait_s = max(1, math.ceil(reset_s - time.time()))
        return Problem(
            status=429,
            message=f"rate limit of {rate} exceeded; try again in {wait_s} s",
            headers={"Retry-After": str(wait_s)},
        )
