"""Images named by a URL to their bytes, within a limit of seconds and of bytes.

http, https and data URLs; nothing is decoded here. Connections are kept for the next image of the same host.
urllib3 is imported when the first http URL is fetched.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import concurrent.futures
import re
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING, NamedTuple

from tritonclip.errors import InvalidInputError

if TYPE_CHECKING:
    import urllib3

    from tritonclip._images.guard import AddressGuard

DEFAULT_TIMEOUT_S = 10.0
DEFAULT_MAX_BYTES = 64 * 2**20  # as much as the server takes in one request
MAX_REDIRECTS = 5
KEPT_CONNECTIONS = 32  # a host, and hosts
BLOCK_BYTES = 1 << 16
ACCEPT = "image/avif,image/webp,image/*;q=0.9,*/*;q=0.1"
SHOWN_PATH_CHARS, SHOWN_QUERY_CHARS = 120, 40
USER_INFO = re.compile(r"//([^/?#]*)@")
DO_IT_YOURSELF = "or fetch it yourself and pass its bytes"


def is_url(text: str) -> bool:
    """Whether a string names an image by URL rather than by path."""
    return text[:8].lower().startswith(("http://", "https://", "data:"))


class _Started(NamedTuple):
    """A fetch that runs in a thread of its own, how long to wait for it, and what to say after that."""

    outcome: concurrent.futures.Future[bytes]
    limit_s: float
    late: str


class Fetcher:
    """Fetches URLs; safe to share between threads.

    Args:
        timeout_s: Limit of one fetch in seconds, from the name's resolution to the last byte.
        max_bytes: Limit of one image's bytes.
        guard: Which addresses may be connected to, where the URLs are not one's own; None for all.
    """

    def __init__(
        self,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
        guard: AddressGuard | None = None,
    ) -> None:
        self._timeout_s, self._max_bytes, self._guard = timeout_s, max_bytes, guard
        self._pool: urllib3.PoolManager | None = None
        self._lock = threading.Lock()

    def fetch(self, url: str, where: str, timeout_s: float | None = None) -> bytes:
        """The bytes behind a URL, at least one.

        Args:
            url: http://, https:// or data:. A user and password in it are sent as basic authentication.
            where: What the URL stands for, as "image 3", for the error's text.
            timeout_s: Seconds left to the caller, if they may be fewer than the fetcher's own limit.

        Raises:
            InvalidInputError: Names the place, the URL and the cause. Mend the URL, raise the limit that it
                names, or fetch the image yourself.
        """
        if _is_data(url):
            return decode_data(url, where, self._max_bytes)
        started = self._start(url, where, timeout_s)
        try:
            return started.outcome.result(started.limit_s)
        except (concurrent.futures.TimeoutError, TimeoutError) as error:
            raise InvalidInputError(started.late) from error

    async def fetch_async(self, url: str, where: str, timeout_s: float | None = None) -> bytes:
        """`fetch` for an event loop: it holds up neither the loop nor the loop's own threads."""
        started = self._start(url, where, timeout_s)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(started.outcome), started.limit_s)
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise InvalidInputError(started.late) from error

    def close(self) -> None:
        """Close the connections that are kept; a later fetch opens new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.clear()

    def _start(self, url: str, where: str, timeout_s: float | None) -> _Started:
        lowered = timeout_s is not None and timeout_s < self._timeout_s
        limit_s = timeout_s if lowered and timeout_s is not None else self._timeout_s
        setting = "timeout_s" if lowered else "fetch_timeout_s"
        late = (
            f"{where}: {_shown(url)} timed out after {limit_s:.3g} s ({setting}); raise it, {DO_IT_YOURSELF}"
        )
        # In a thread of its own, because nothing else bounds the resolution of a name or slow headers.
        outcome: concurrent.futures.Future[bytes] = concurrent.futures.Future()
        outcome.set_running_or_notify_cancel()  # whoever stops waiting does not cancel it
        end = time.monotonic() + limit_s
        threading.Thread(target=self._work, args=(url, where, end, outcome), daemon=True).start()
        return _Started(outcome, limit_s, late)

    def _work(self, url: str, where: str, end: float, outcome: concurrent.futures.Future[bytes]) -> None:
        try:
            if _is_data(url):
                outcome.set_result(decode_data(url, where, self._max_bytes))
            else:
                outcome.set_result(self._follow(url, f"{where}: {_shown(url)}", end))
        except BaseException as error:
            outcome.set_exception(error)

    def _follow(self, url: str, name: str, end: float) -> bytes:
        """Fetch through redirects; every failure of urllib3 and below becomes an error of the package."""
        from urllib3 import exceptions

        auth = _authorization(url)
        try:
            for _ in range(MAX_REDIRECTS + 1):
                response = self._request(url, auth, name, end)
                try:
                    target = response.get_redirect_location()
                    if not target:
                        return self._read(response, name, end)
                finally:
                    response.close()  # whole answers have given their connection back by now
                url, auth = _redirected(url, target, auth, name)
        except exceptions.LocationValueError as error:
            raise InvalidInputError(f"{name} is not a valid URL: {error}") from error
        except (exceptions.HTTPError, OSError, ValueError) as error:
            if isinstance(error, InvalidInputError):
                raise
            refused = isinstance(error, exceptions.NewConnectionError)  # by its class a timeout too
            if isinstance(error, (exceptions.TimeoutError, TimeoutError)) and not refused:
                raise TimeoutError from error
            cause = _root_cause(error) if self._guard is None else self._guard.cause(error)
            raise InvalidInputError(
                f"{name} cannot be fetched: {cause}; check the URL and the network, {DO_IT_YOURSELF}"
            ) from error
        raise InvalidInputError(
            f"{name} redirects more than {MAX_REDIRECTS} times; give the URL of the image itself"
        )

    def _request(self, url: str, auth: dict[str, str], name: str, end: float) -> urllib3.BaseHTTPResponse:
        from urllib3 import Retry, Timeout

        from tritonclip import __version__

        pools, headers = self._pools(), {"Accept": ACCEPT, "User-Agent": f"tritonclip/{__version__}", **auth}
        if self._guard is not None:
            return self._guard.request(pools, url, headers, name, end)
        return pools.request(
            "GET",
            url,
            headers=headers,
            timeout=Timeout(total=seconds_left(end)),
            retries=Retry(
                1, connect=0, redirect=False
            ),  # a kept connection may have been dropped by the server
            redirect=False,
            preload_content=False,
        )

    def _pools(self) -> urllib3.PoolManager:
        from urllib3 import PoolManager

        with self._lock:
            if self._pool is None:
                new = PoolManager if self._guard is None else self._guard.pools
                self._pool = new(num_pools=KEPT_CONNECTIONS, maxsize=KEPT_CONNECTIONS)
            return self._pool

    def _read(self, response: urllib3.BaseHTTPResponse, name: str, end: float) -> bytes:
        if not 200 <= response.status < 300:
            advice = "check the URL" if response.status < 500 else "try again later"
            raise InvalidInputError(
                f"{name} answered with status {response.status}; {advice}, {DO_IT_YOURSELF}"
            )
        announced = response.headers.get("Content-Length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise InvalidInputError(f"{name} {_too_large(self._max_bytes)}")
        content = bytearray()
        while block := response.read1(BLOCK_BYTES, decode_content=True):  # what is there, be it a byte
            content += block
            if len(content) > self._max_bytes:
                raise InvalidInputError(f"{name} {_too_large(self._max_bytes)}")
            seconds_left(end)
        if not content:
            raise InvalidInputError(f"{name} is empty; give the URL of an image")
        return bytes(content)


def _is_data(url: str) -> bool:
    return url[:5].lower() == "data:"


def seconds_left(end: float) -> float:
    """Seconds to the end; TimeoutError if there are none."""
    left_s = end - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _redirected(url: str, target: str, auth: dict[str, str], name: str) -> tuple[str, dict[str, str]]:
    """The next address; never from https to http, and with the password to the same host only."""
    url, before = urllib.parse.urljoin(url, target), urllib.parse.urlsplit(url)
    after = urllib.parse.urlsplit(url)
    if after.scheme not in ("http", "https") or (before.scheme == "https" and after.scheme == "http"):
        raise InvalidInputError(
            f"{name} redirects to {_shown(url)}, and {after.scheme} is not followed from {before.scheme}; "
            f"give the URL of the image itself, {DO_IT_YOURSELF}"
        )
    same = (before.scheme, before.hostname, before.port) == (after.scheme, after.hostname, after.port)
    return url, _authorization(url) or (auth if same else {})


def _authorization(url: str) -> dict[str, str]:
    found = USER_INFO.search(url)
    if not found:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(urllib.parse.unquote(found[1]).encode()).decode()}


def decode_data(url: str, where: str, max_bytes: int) -> bytes:
    """The content of a data URL (RFC 2397); base64 may lack its padding."""
    header, comma, payload = url.partition(",")
    shown = f"{where}: {url[:SHOWN_QUERY_CHARS]!r}"
    if not comma:
        raise InvalidInputError(f"{shown} is not a data URL, it has no comma; give data:image/png;base64,...")
    content = urllib.parse.unquote_to_bytes(payload)
    if header.replace(" ", "").lower().endswith(";base64"):
        bare = b"".join(content.split()).rstrip(b"=")
        try:
            content = base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True)
        except binascii.Error as error:
            raise InvalidInputError(f"{shown} is not valid base64 ({error}); encode it anew") from error
    if len(content) > max_bytes:
        raise InvalidInputError(f"{shown} {_too_large(max_bytes)}")
    if not content:
        raise InvalidInputError(f"{shown} is empty; give the content of an image file")
    return content


def _too_large(max_bytes: int) -> str:
    return f"is larger than {max_bytes} bytes (fetch_max_bytes); raise the limit, or send a smaller image"


def _shown(url: str) -> str:
    """A URL for an error's text: without user, password and fragment, and not longer than helps."""
    path, mark, query = USER_INFO.sub("//", url, count=1).partition("#")[0].partition("?")
    return repr(_cut(path, SHOWN_PATH_CHARS) + mark + _cut(query, SHOWN_QUERY_CHARS))


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[:chars] + "..."


def _root_cause(error: BaseException) -> str:
    """The innermost cause: the system's own words, without urllib3's objects and addresses."""
    inner: BaseException | None = error
    while inner is not None:
        error = inner
        inner = error.__cause__ or next((arg for arg in error.args if isinstance(arg, BaseException)), None)
    return _cut(str(error) or type(error).__name__, 200)
