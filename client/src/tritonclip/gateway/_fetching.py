"""Images that callers name by URL: off, or fetched under guard, so many at a time."""

from __future__ import annotations

import asyncio

from tritonclip._images.fetch import Fetcher
from tritonclip._images.guard import AddressGuard
from tritonclip.errors import InvalidInputError
from tritonclip.gateway._settings import GatewaySettings

AT_ONCE = 32


class UrlImages:
    """Fetches images for callers.

    Args:
        settings: Whether URLs are taken at all, and the limits of a fetch.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._fetcher = None
        if settings.allow_urls:
            guard = AddressGuard(settings.url_networks, settings.url_ports)
            self._fetcher = Fetcher(settings.url_timeout_s, settings.url_max_bytes, guard)
        self._seats = asyncio.Semaphore(AT_ONCE)

    async def fetch(self, url: str, where: str, timeout_s: float) -> bytes:
        """The bytes behind an http or https URL, within the request's seconds.

        Raises:
            InvalidInputError: If URLs are not taken, or this one cannot be had.
        """
        if self._fetcher is None:
            raise InvalidInputError(
                f"{where}: URLs are not fetched here; send the file, or its content as base64"
            )
        async with self._seats:
            return await self._fetcher.fetch_async(url, where, timeout_s)

    def close(self) -> None:
        """Close the connections."""
        if self._fetcher is not None:
            self._fetcher.close()
