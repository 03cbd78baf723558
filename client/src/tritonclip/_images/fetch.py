"""Fetching of images by URL, within limits on time and size.

It supports http, https and data URLs and decodes no images. Connections are kept for the next image of the
same host. urllib3 is imported when the first http URL is fetched.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from tritonclip._images.urls import (
    FETCH_IT_YOURSELF,
    authorization,
    decode_data_url,
    follow_redirect,
    is_data_url,
    seconds_left,
    shorten,
    shown_url,
    too_large,
)
from tritonclip._process import forks
from tritonclip._process.proxies import Proxy, proxy_of_url
from tritonclip._version import __version__
from tritonclip.errors import InvalidInputError

if TYPE_CHECKING:
    import urllib3

    from tritonclip._images.guard import AddressGuard

DEFAULT_TIMEOUT_S = 10.0
DEFAULT_MAX_BYTES = 64 * 2**20  # the server's limit per request
MAX_REDIRECTS = 5
BLOCK_BYTES = 1 << 16
ACCEPT = "image/avif,image/webp,image/*;q=0.9,*/*;q=0.1"


class _PendingFetch(NamedTuple):
    """A fetch that runs in its own thread, with its time limit and the error text for a timeout."""

    outcome: concurrent.futures.Future[bytes]
    limit_s: float
    timeout_message: str


class Fetcher:
    """A fetcher of URLs; safe to share between threads.

    Args:
        timeout_s: Limit of one fetch in seconds, from name resolution to the last byte.
        max_bytes: Limit on the size of one image.
        guard: Restricts the addresses that may be connected to, for URLs from untrusted callers; None allows
            all.
    """

    def __init__(
        self,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
        guard: AddressGuard | None = None,
    ) -> None:
        self._timeout_s, self._max_bytes, self._guard = timeout_s, max_bytes, guard
        self._pools: dict[Proxy | None, urllib3.PoolManager] = {}
        self._lock = threading.Lock()
        forks.renew_in_children(self)

    def renew(self) -> None:
        """Start without connections in a forked process."""
        forks.leave_to_parent(self._pools)
        self._pools, self._lock = {}, threading.Lock()

    def fetch(self, url: str, name: str, timeout_s: float | None = None) -> bytes:
        """Return the content behind a URL, at least one byte.

        Args:
            url: http://, https:// or data:. A user and password in it are sent as basic authentication.
            name: The image's name in error texts, such as "image 3".
            timeout_s: Seconds left to the caller, if they may be fewer than the fetcher's own limit.

        Raises:
            InvalidInputError: The fetch failed; the text names the image, the URL and the cause. Correct the
                URL, raise the limit that is named, or fetch the image yourself.
        """
        if is_data_url(url):
            return decode_data_url(url, name, self._max_bytes)
        pending = self._start(url, name, timeout_s)
        try:
            return pending.outcome.result(pending.limit_s)
        except (concurrent.futures.TimeoutError, TimeoutError) as error:
            raise InvalidInputError(pending.timeout_message) from error

    async def fetch_async(self, url: str, name: str, timeout_s: float | None = None) -> bytes:
        """Return what `fetch` returns, without blocking the event loop or its thread pool."""
        pending = self._start(url, name, timeout_s)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(pending.outcome), pending.limit_s)
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise InvalidInputError(pending.timeout_message) from error

    def close(self) -> None:
        """Close the idle connections; a later fetch opens new ones."""
        with self._lock:
            pools, self._pools = self._pools, {}
        for one in pools.values():
            one.clear()

    def _start(self, url: str, name: str, timeout_s: float | None) -> _PendingFetch:
        lowered = timeout_s is not None and timeout_s < self._timeout_s
        limit_s = timeout_s if lowered and timeout_s is not None else self._timeout_s
        setting = "timeout_s" if lowered else "fetch_timeout_s"
        message = (
            f"{name}: {shown_url(url)} timed out after {limit_s:.3g} s ({setting}); "
            f"raise it, {FETCH_IT_YOURSELF}"
        )
        # In its own thread, because nothing else bounds name resolution or slow headers.
        outcome: concurrent.futures.Future[bytes] = concurrent.futures.Future()
        outcome.set_running_or_notify_cancel()  # a caller that stops waiting does not cancel it
        end = time.monotonic() + limit_s
        threading.Thread(target=self._work, args=(url, name, end, outcome), daemon=True).start()
        return _PendingFetch(outcome, limit_s, message)

    def _work(self, url: str, name: str, end: float, outcome: concurrent.futures.Future[bytes]) -> None:
        try:
            if is_data_url(url):
                outcome.set_result(decode_data_url(url, name, self._max_bytes))
            else:
                outcome.set_result(self._follow(url, f"{name}: {shown_url(url)}", end))
        except BaseException as error:
            outcome.set_exception(error)

    def _follow(self, url: str, name: str, end: float) -> bytes:
        """Fetch a URL through redirects; raise InvalidInputError or TimeoutError for every failure."""
        from urllib3 import exceptions

        auth, proxy = authorization(url), None
        try:
            for _ in range(MAX_REDIRECTS + 1):
                proxy = proxy_of_url(url)
                response = self._request(url, auth, name, end, proxy)
                try:
                    target = response.get_redirect_location()
                    if not target:
                        return self._read(response, name, end)
                finally:
                    response.close()  # a complete response has already returned its connection to the pool
                url, auth = follow_redirect(url, target, auth, name)
        except exceptions.LocationValueError as error:
            raise InvalidInputError(f"{name} is not a valid URL: {error}") from error
        except (exceptions.HTTPError, OSError, ValueError) as error:
            if isinstance(error, InvalidInputError):
                raise
            refused = isinstance(error, exceptions.NewConnectionError)  # a subclass of urllib3's timeout
            if isinstance(error, (exceptions.TimeoutError, TimeoutError)) and not refused:
                raise TimeoutError from error
            cause = _root_cause(error) if self._guard is None else self._guard.cause(error)
            if proxy is not None:
                cause += ", through " + (str(proxy) if self._guard is None else "a proxy")
            raise InvalidInputError(
                f"{name} cannot be fetched: {cause}; check the URL and the network, {FETCH_IT_YOURSELF}"
            ) from error
        raise InvalidInputError(
            f"{name} redirects more than {MAX_REDIRECTS} times; give the URL of the image itself"
        )

    def _request(
        self, url: str, auth: dict[str, str], name: str, end: float, proxy: Proxy | None
    ) -> urllib3.BaseHTTPResponse:
        from urllib3 import Retry, Timeout

        pools = self._pools_of(proxy)
        headers = {"Accept": ACCEPT, "User-Agent": f"tritonclip/{__version__}", **auth}
        if self._guard is not None:
            return self._guard.request(pools, url, headers, name, end)
        return pools.request(
            "GET",
            url,
            headers=headers,
            timeout=Timeout(total=seconds_left(end)),
            retries=Retry(1, connect=0, redirect=False),  # the server may have dropped an idle connection
            redirect=False,
            preload_content=False,
        )

    def _pools_of(self, proxy: Proxy | None) -> urllib3.PoolManager:
        from tritonclip._images.pools import new_pools

        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = new_pools(proxy, tunnel=self._guard is not None)
            return self._pools[proxy]

    def _read(self, response: urllib3.BaseHTTPResponse, name: str, end: float) -> bytes:
        if not 200 <= response.status < 300:
            advice = "check the URL" if response.status < 500 else "try again later"
            raise InvalidInputError(
                f"{name} answered with status {response.status}; {advice}, {FETCH_IT_YOURSELF}"
            )
        announced = response.headers.get("Content-Length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise InvalidInputError(f"{name} {too_large(self._max_bytes)}")
        content = bytearray()
        while block := response.read1(BLOCK_BYTES, decode_content=True):  # returns as soon as bytes arrive
            content += block
            if len(content) > self._max_bytes:
                raise InvalidInputError(f"{name} {too_large(self._max_bytes)}")
            seconds_left(end)
        if not content:
            raise InvalidInputError(f"{name} is empty; give the URL of an image")
        return bytes(content)


def _root_cause(error: BaseException) -> str:
    """Return the text of the innermost cause, without urllib3's objects and addresses."""
    inner: BaseException | None = error
    while inner is not None:
        error = inner
        inner = error.__cause__ or next((arg for arg in error.args if isinstance(arg, BaseException)), None)
    return shorten(str(error) or type(error).__name__, 200)
