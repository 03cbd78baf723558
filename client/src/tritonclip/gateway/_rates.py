"""How often one caller may call, counted by the package `limits` in a sliding window."""

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
    """Counts the requests of each caller.

    Args:
        rates: As `100/minute`, several separated by `;`.
        storage: See `GatewaySettings.rate_storage`.
    """

    def __init__(self, rates: str, storage: str) -> None:
        self._rates = limits.parse_many(rates)
        uri = storage if storage.startswith("async+") else f"async+{storage}"
        self._strategy = SlidingWindowCounterRateLimiter(storage_from_string(uri))

    async def admit(self, who: str) -> None:
        """Count a request; raises a Problem of status 429, with Retry-After, where it is one too many.

        A storage that does not answer admits everyone: what protects the server from one caller is not to cut
        off all of them.
        """
        try:
            for rate in self._rates:
                if not await self._strategy.hit(rate, who):
                    raise await self._refusal(rate, who)
        except Problem:
            raise
        except Exception as error:  # whatever the storage's own library raises
            log.error("the storage of the rate limit does not answer", extra={"cause": str(error)})

    async def _refusal(self, rate: limits.RateLimitItem, who: str) -> Problem:
        reset_s, _ = await self._strategy.get_window_stats(rate, who)
        wait_s = max(1, math.ceil(reset_s - time.time()))
        return Problem(
            status=429,
            message=f"the rate limit of {rate} is reached; try again in {wait_s} s",
            headers={"Retry-After": str(wait_s)},
        )
