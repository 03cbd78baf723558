"""A guard for a `Fetcher` whose URLs come from strangers: only public addresses are fetched from.

A server that fetches what its callers name could be made to read what only the server can reach. So a name is
resolved once, all its addresses are checked, and the connection goes to a checked address, not to the name.
What the name looks like is not judged: `http://2130706433/` resolves to 127.0.0.1 like any other.
Not covered: services on public addresses that trust this machine's address, and NAT64 prefixes of one's own.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any

from urllib3 import (
    BaseHTTPResponse,
    HTTPConnectionPool,
    HTTPSConnectionPool,
    PoolManager,
    Timeout,
    exceptions,
)
from urllib3.connection import HTTPConnection
from urllib3.util import Url, parse_url
from urllib3.util.ssl_ import create_urllib3_context

from tritonclip._images.fetch import DO_IT_YOURSELF, USER_INFO, seconds_left
from tritonclip.errors import InvalidInputError

WEB_PORTS = (80, 443)
MAX_TRIED = 4  # addresses of one host
_DEFAULT_PORT = {"http": 80, "https": 443}
_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f\\]")  # read by each parser in its own way

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Source: IANA's registries of special-purpose addresses. Written out, as `is_global` differs between Pythons.
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")  # all that IANA has given out
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's own services, inside each virtual machine only
        *("2001::/23", "2001:db8::/32", "3fff::/20"),  # Teredo and other protocols; documentation
        "2002::/16",  # 6to4
    )
]
_CARRIERS = [ipaddress.ip_network(text) for text in ("::ffff:0:0/96", "64:ff9b::/96")]  # mapped, NAT64


class AddressGuard:
    """Which addresses a `Fetcher` may connect to; safe to share between threads.

    Args:
        allow: Networks that may be fetched from though they are not public, as `10.1.0.0/16`. An IPv4 network
            covers its addresses in IPv6 form too.
        ports: The ports that a URL may name, of public and of allowed hosts alike.
        resolve: Looks a name up, as `socket.getaddrinfo` does.

    Raises:
        InvalidInputError: If a network is not one. Mend it.
    """

    def __init__(
        self,
        allow: Iterable[str] = (),
        ports: Iterable[int] = WEB_PORTS,
        resolve: Callable[..., Iterable[tuple[Any, ...]]] = socket.getaddrinfo,
    ) -> None:
        try:
            self._allow = [ipaddress.ip_network(network) for network in allow]
        except ValueError as error:
            raise InvalidInputError(f"allow: {error}; give a network as '10.1.0.0/16'") from error
        self._ports = frozenset(ports)
        self._resolve = resolve

    def permits(self, address: str) -> bool:
        """Whether an address, in digits, may be connected to."""
        try:
            inner = _carried(ipaddress.ip_address(address))
        except ValueError:
            return False
        return any(inner in network for network in self._allow) or _is_public(inner)

    @staticmethod
    def pools(*, num_pools: int, maxsize: int) -> PoolManager:
        """The connections to keep; on each, all reading of one answer together has one limit of time."""
        context = create_urllib3_context()
        context.load_default_certs()
        context.sslsocket_class = _TlsSocket
        pools = PoolManager(num_pools, maxsize=maxsize, ssl_context=context)
        pools.pool_classes_by_scheme = {"http": _Pool, "https": HTTPSConnectionPool}
        return pools

    @staticmethod
    def cause(error: BaseException) -> str:
        """Why a fetch failed, without the network's own words: they would tell of hosts and ports."""
        if isinstance(error, exceptions.SSLError):
            return "the certificate or the encryption of its host is not accepted"
        return "its host cannot be reached, or does not answer as a web server does"

    def request(
        self, pools: PoolManager, url: str, headers: dict[str, str], name: str, end: float
    ) -> BaseHTTPResponse:
        """Send GET to a permitted address of the URL's host; redirects are not followed.

        Args:
            pools: From `pools`.
            url: http:// or https://, as the caller or a redirect gave it.
            headers: Headers of the request without Host.
            name: What the URL stands for, for the error's text.
            end: When `time.monotonic()` says that the time is up.

        Raises:
            InvalidInputError: If the URL is refused. Nothing was connected to.
        """
        target = self._parsed(url, name)
        addresses = self._addresses(target, name)
        host = (target.host or "").rstrip(".")
        usual = target.port == _DEFAULT_PORT[target.scheme or ""]
        headers = {**headers, "Host": host if usual else f"{host}:{target.port}"}
        # The name is part of a pool's key: no two hosts share a connection, be their address the same.
        identity = {"server_hostname": host.strip("[]")}
        for tried, address in enumerate(addresses, 1):
            pool = pools.connection_from_host(address, target.port, target.scheme, identity)
            connect_s = seconds_left(end) / (len(addresses) - tried + 1)
            try:
                return _get(pool, target.request_uri, headers, connect_s, end)
            except exceptions.TimeoutError:  # a refused connection too
                if tried == len(addresses) or time.monotonic() >= end:
                    raise
        raise AssertionError("a host has addresses")  # pragma: no cover

    def _parsed(self, url: str, name: str) -> Url:
        """The URL's parts with its port; taken apart here only, so that no two parsers can differ."""
        if _NOT_IN_URLS.search(url):
            raise InvalidInputError(
                f"{name} has, or redirects to a URL that has, a space, a backslash or a control character; "
                "percent-encode it"
            )
        if USER_INFO.search(url):
            raise InvalidInputError(
                f"{name} has, or redirects to a URL that has, a user or password; give a URL without"
            )
        try:
            target = parse_url(url)
        except exceptions.LocationValueError as error:
            raise InvalidInputError(f"{name} is not a valid URL; correct it") from error
        if not target.host or target.scheme not in _DEFAULT_PORT or "%" in target.host:
            raise InvalidInputError(f"{name} is not a valid http or https URL; correct it")
        port = _DEFAULT_PORT[target.scheme] if target.port is None else target.port
        if port not in self._ports:
            raise InvalidInputError(
                f"{name} has, or redirects to, a port that is not fetched from; "
                f"give a URL with port {' or '.join(map(str, sorted(self._ports)))}"
            )
        return target._replace(port=port)

    def _addresses(self, target: Url, name: str) -> list[str]:
        """What the host resolves to, if all of it is permitted; an unknown name gets the same answer."""
        try:
            found = self._resolve((target.host or "").strip("[]"), target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            found = []
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not addresses or not all(map(self.permits, addresses)):
            raise InvalidInputError(
                f"{name} is not fetched: the address of its host, or of one that it redirects to, is not "
                f"public or not known; give the URL of a public image, {DO_IT_YOURSELF}"
            )
        return addresses[:MAX_TRIED]


def _get(
    pool: HTTPConnectionPool, uri: str, headers: dict[str, str], connect_s: float, end: float
) -> BaseHTTPResponse:
    def attempt() -> BaseHTTPResponse:
        limits = Timeout(total=seconds_left(end), connect=connect_s)
        return pool.urlopen(
            "GET", uri, headers=headers, timeout=limits, retries=False, redirect=False, preload_content=False,
            assert_same_host=False,
        )  # fmt: skip

    try:
        return attempt()
    except exceptions.ProtocolError:  # a kept connection may have been dropped by the server
        return attempt()


def _carried(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, where it does."""
    if any(address in network for network in _CARRIERS):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_public(address: Address) -> bool:
    given_out = address.version == 4 or address in _PUBLIC_V6
    return given_out and not any(address in network for network in _NOT_PUBLIC)


class _Patience:
    """For sockets: a timeout is that of all reads until it is set again, not of each.

    Else a server that sends a byte of a header now and then would hold its thread for days.
    """

    _end: float | None = None

    def settimeout(self, value: float | None) -> None:
        self._end = None if value is None else time.monotonic() + value
        super().settimeout(value)  # type: ignore[misc]

    def recv_into(self, *args: Any) -> Any:
        if self._end is not None:
            super().settimeout(seconds_left(self._end))  # type: ignore[misc]
        return super().recv_into(*args)  # type: ignore[misc]


class _Socket(_Patience, socket.socket):
    pass


class _TlsSocket(_Patience, ssl.SSLSocket):
    pass


class _Connection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        self.sock = _Socket(fileno=self.sock.detach())
        self.sock.settimeout(self.timeout)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection
