"""Images that callers name by URL: rejected, or fetched through an address guard."""

from __future__ import annotations

import asyncio

from tritonclip._images.fetch import Fetcher
from tritonclip._images.guard import AddressGuard
from tritonclip.errors import InvalidInputError
from tritonclip.gateway._settings import GatewaySettings

CONCURRENT_FETCHES = 32


class UrlImages:
    """Fetches images for callers.

    Args:
        settings: Switches URLs on, and holds the limits of a fetch.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._fetcher = None
        if settings.allow_urls:
            guard = AddressGuard(settings.url_networks, settings.url_ports)
            self._fetcher = Fetcher(settings.url_timeout_s, settings.url_max_bytes, guard)
        self._slots = asyncio.Semaphore(CONCURRENT_FETCHES)

    async def fetch(self, url: str, where: str, timeout_s: float) -> bytes:
        """Fetch an http or https URL.

        Args:
            url: The URL.
            where: Name of the image in error messages, such as `image 1`.
            timeout_s: Seconds left until the request's deadline.

        Raises:
            InvalidInputError: If URLs are switched off or this one cannot be fetched.
        """
        if self._fetcher is None:
            raise InvalidInputError(
                f"{where}: URLs are not fetched here; send the file, or its content as base64"
            )
        async with self._slots:
            return await self._fetcher.fetch_async(url, where, timeout_s)

    def close(self) -> None:
        """Close the connections."""
        if self._fetcher is not None:
            self._fetcher.close()
