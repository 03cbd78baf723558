"""Connection pools of the fetcher, with read timeouts for whole responses, and through a proxy if set."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
import urllib.parse
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, ProxyManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError
from urllib3.util import make_headers, parse_url
from urllib3.util.ssl_ import create_urllib3_context

from tritonclip._images.urls import seconds_left
from tritonclip._process.proxies import Proxy
from tritonclip.errors import InvalidInputError

KEPT_CONNECTIONS = 32  # per host; also the number of hosts


def new_pools(proxy: Proxy | None, *, tunnel: bool) -> PoolManager:
    """Return pools of kept connections.

    Args:
        proxy: The proxy to connect through.
        tunnel: Use CONNECT for http:// too, so that the proxy connects to the address that it is given and
            resolves no name. Otherwise it is asked for the URL.

    Raises:
        InvalidInputError: The proxy's scheme is not supported.
    """
    context = create_urllib3_context()
    context.load_default_certs()
    context.sslsocket_class = _TlsSocket
    options: dict[str, Any] = {
        "num_pools": KEPT_CONNECTIONS,
        "maxsize": KEPT_CONNECTIONS,
        "ssl_context": context,
    }
    pools = PoolManager(**options)
    classes: dict[str, type[HTTPConnectionPool]] = {"http": _Pool, "https": HTTPSConnectionPool}
    if proxy is not None:
        _check_scheme(proxy, ("http",) if tunnel else ("http", "https"))
        if tunnel:
            classes = _tunnelled_pools(proxy)
        else:
            pools = ProxyManager(proxy.url, proxy_headers=_credentials(proxy), **options)
    pools.pool_classes_by_scheme = classes
    return pools


def _check_scheme(proxy: Proxy, schemes: tuple[str, ...]) -> None:
    if proxy.url.partition("://")[0].lower() not in schemes:
        raise InvalidInputError(f"{proxy} must begin with {' or '.join(f'{one}://' for one in schemes)}")


def _credentials(proxy: Proxy) -> dict[str, str]:
    user = parse_url(proxy.url).auth
    return dict(make_headers(proxy_basic_auth=urllib.parse.unquote(user))) if user else {}


def _tunnelled_pools(proxy: Proxy) -> dict[str, type[HTTPConnectionPool]]:
    """Return pool classes by scheme, whose connections are tunnels to the address of their host."""
    target = parse_url(proxy.url)

    def connect(connection: HTTPConnection) -> socket.socket:
        tunnel = http.client.HTTPConnection(
            (target.host or "").strip("[]"), target.port or 80, timeout=connection.timeout
        )
        tunnel.set_tunnel(connection.host, connection.port, _credentials(proxy))
        try:
            tunnel.connect()
        except (OSError, http.client.HTTPException) as error:
            raise NewConnectionError(connection, f"the proxy makes no tunnel: {error}") from error
        return tunnel.sock

    class Plain(_Connection):
        def _new_conn(self) -> socket.socket:
            return connect(self)

    class Encrypted(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return connect(self)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}


class _TotalReadTimeout:
    """A mixin for sockets whose timeout bounds all reads until it is set again, not each read.

    Otherwise a server that sends a header byte by byte could hold its thread for days.
    """

    _end: float | None = None

    def settimeout(self, value: float | None) -> None:
        self._end = None if value is None else time.monotonic() + value
        super().settimeout(value)  # type: ignore[misc]

    def recv_into(self, *args: Any) -> Any:
        if self._end is not None:
            super().settimeout(seconds_left(self._end))  # type: ignore[misc]
        return super().recv_into(*args)  # type: ignore[misc]


class _Socket(_TotalReadTimeout, socket.socket):
    pass


class _TlsSocket(_TotalReadTimeout, ssl.SSLSocket):
    pass


class _Connection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        self.sock = _Socket(fileno=self.sock.detach())
        self.sock.settimeout(self.timeout)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection
