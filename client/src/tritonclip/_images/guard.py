"""A guard against server-side request forgery, for a `Fetcher` whose URLs come from untrusted callers.

Without it a caller could make the server read what only the server can reach. The guard resolves a name once,
checks all its addresses, and connects to a checked address, not to the name. A proxy of the environment is
asked for a tunnel to the checked address, so it resolves no name either. The guard does not judge what a name
looks like: `http://2130706433/` resolves to 127.0.0.1 like any other name for it.

The guard does not cover services on public addresses that trust this machine's address, or private NAT64
prefixes.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from urllib3 import (
    BaseHTTPResponse,
    HTTPConnectionPool,
    PoolManager,
    Timeout,
    exceptions,
)
from urllib3.util import Url, parse_url

from tritonclip._images.urls import FETCH_IT_YOURSELF, USER_INFO, seconds_left
from tritonclip.errors import InvalidInputError

WEB_PORTS = (80, 443)
MAX_ADDRESSES = 4  # of one host
_DEFAULT_PORT = {"http": 80, "https": 443}
_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f\\]")  # URL parsers disagree about these

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Source: IANA's special-purpose address registries. They are listed here because `is_global` differs between
# Python versions.
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")  # all that IANA has assigned
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's platform services, visible inside each virtual machine
        *("2001::/23", "2001:db8::/32", "3fff::/20"),  # Teredo and other protocols; documentation
        "2002::/16",  # 6to4
    )
]
# IPv4-mapped, NAT64
_IPV4_PREFIXES = [ipaddress.ip_network(text) for text in ("::ffff:0:0/96", "64:ff9b::/96")]


class AddressGuard:
    """The addresses that a `Fetcher` may connect to; safe to share between threads.

    Args:
        allow: Private networks that may be fetched from, such as `10.1.0.0/16`. An IPv4 network covers its
            addresses in IPv6 form too.
        ports: The ports that a URL may name, for public and for allowed hosts alike.
        resolve: Resolves a name, as `socket.getaddrinfo` does.

    Raises:
        InvalidInputError: An entry of `allow` is not a network. Correct it.
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
            raise InvalidInputError(f"allow: {error}; give a network such as '10.1.0.0/16'") from error
        self._ports = frozenset(ports)
        self._resolve = resolve

    def permits(self, address: str) -> bool:
        """Return True if a numeric address may be connected to."""
        try:
            inner = _embedded_ipv4(ipaddress.ip_address(address))
        except ValueError:
            return False
        return any(inner in network for network in self._allow) or _is_public(inner)

    @staticmethod
    def cause(error: BaseException) -> str:
        """Return why a fetch failed, without the system's text, which would reveal hosts and ports."""
        if isinstance(error, exceptions.SSLError):
            return "the certificate or the encryption of its host is not accepted"
        return "its host cannot be reached, or does not answer as a web server does"

    def request(
        self, pools: PoolManager, url: str, headers: dict[str, str], name: str, end: float
    ) -> BaseHTTPResponse:
        """Send GET to a permitted address of the URL's host; redirects are not followed.

        Args:
            pools: Pools made by `new_pools`, with a tunnel if there is a proxy.
            url: http:// or https://, as the caller or a redirect gave it.
            headers: Headers of the request, without Host.
            name: The image's name in error texts.
            end: The deadline, on the clock of `time.monotonic()`.

        Raises:
            InvalidInputError: The URL is rejected. No connection was made.
        """
        target = self._parse(url, name)
        addresses = self._permitted_addresses(target, name)
        host = (target.host or "").rstrip(".")
        usual = target.port == _DEFAULT_PORT[target.scheme or ""]
        headers = {**headers, "Host": host if usual else f"{host}:{target.port}"}
        # The name is part of a pool's key, so two hosts with the same address share no connection.
        identity = {"server_hostname": host.strip("[]")}
        for tried, address in enumerate(addresses, 1):
            pool = pools.connection_from_host(address, target.port, target.scheme, identity)
            connect_s = seconds_left(end) / (len(addresses) - tried + 1)
            try:
                return _get(pool, target.request_uri, headers, connect_s, end)
            except exceptions.TimeoutError:  # includes refused connections
                if tried == len(addresses) or time.monotonic() >= end:
                    raise
        raise AssertionError("a host has addresses")  # pragma: no cover

    def _parse(self, url: str, name: str) -> Url:
        """Parse the URL, once and for all, so that no two parsers can disagree; fill in the port."""
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

    def _permitted_addresses(self, target: Url, name: str) -> list[str]:
        """Resolve the host, and reject it if any address is not permitted.

        An unknown name gets the same error, so callers cannot probe for names.
        """
        try:
            found = self._resolve((target.host or "").strip("[]"), target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            found = []
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not addresses or not all(map(self.permits, addresses)):
            raise InvalidInputError(
                f"{name} is not fetched: the address of its host, or of one that it redirects to, is not "
                f"public or not known; give the URL of a public image, {FETCH_IT_YOURSELF}"
            )
        return addresses[:MAX_ADDRESSES]


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
    except exceptions.ProtocolError:  # the server may have dropped an idle connection
        return attempt()


def _embedded_ipv4(address: Address) -> Address:
    """Return the IPv4 address inside an IPv6 address if there is one, else the address itself."""
    if any(address in network for network in _IPV4_PREFIXES):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_public(address: Address) -> bool:
    assigned = address.version == 4 or address in _PUBLIC_V6
    return assigned and not any(address in network for network in _NOT_PUBLIC)
