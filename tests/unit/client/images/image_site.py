"""A web server in the test's process that answers correctly, incorrectly, slowly or not at all."""

from __future__ import annotations

import contextlib
import gzip
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trustme

from tests.helpers.threads import in_thread
from tritonclip import InvalidInputError

CONTENT = bytes(range(256)) * 1000
LIMIT_BYTES = 300_000
STEP_S = 0.01
LIMITS_S = [0.1 * 2**tried for tried in range(10)]
"""Limits that a test tries in turn, because a busy machine may need more than the first to connect."""


class Site(ThreadingHTTPServer):
    """A server that records the requests it receives. The first part of a path says how it answers.

    Attributes:
        url: Its address.
        headers: Headers of each request, with names in lower case.
        seen: Host header and path of each request.
        connections: Number of connections so far.
        open_slow: Number of responses that are being sent byte by byte.
        target: The URL to which `/away` redirects.
        stop: Ends the responses that are sent byte by byte.
        meeting: `/meet` answers once all its parties have sent their requests.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__((address, port), Handler)
        self.url = f"http://{address}:{self.server_port}"
        self.headers: list[dict[str, str]] = []
        self.seen: list[tuple[str, str]] = []
        self.connections = self.open_slow = 0
        self.target = ""
        self.stop = threading.Event()
        self.meeting = threading.Barrier(1)

    def get_request(self) -> Any:
        self.connections += 1
        return super().get_request()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect early, which the tests do on purpose."""

    def encrypt(self, authority: trustme.CA, *names: str) -> list[str | None]:
        """Serve over TLS with a certificate for these names; return the list of names requested by SNI."""
        asked: list[str | None] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(context)
        context.sni_callback = lambda _socket, name, _context: asked.append(name)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = self.url.replace("http:", "https:")
        return asked


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:  # noqa: N802  # called by http.server
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.server.seen.append((self.headers["Host"], self.path))
        name, _, rest = self.path.split("?")[0].strip("/").partition("/")
        getattr(self, f"_{name}")(rest)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, content: bytes, status: int = 200, **headers: object) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": len(content)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(content)

    def _image(self, rest: str) -> None:
        self._answer(CONTENT)

    def _meet(self, rest: str) -> None:
        self.server.meeting.wait()
        self._answer(CONTENT)

    def _status(self, rest: str) -> None:
        self._answer(b"a page that explains", int(rest))

    def _empty(self, rest: str) -> None:
        self._answer(b"")

    def _hops(self, rest: str) -> None:
        left = int(rest)
        self._answer(b"", 302, Location=f"/hops/{left - 1}" if left else "../image")

    def _away(self, rest: str) -> None:
        self._answer(b"", 307, Location=self.server.target)

    def _announced(self, rest: str) -> None:
        self._answer(b"", Content_Length=rest)

    def _until_closed(self, rest: str) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT[: int(rest)])

    def _chunked(self, rest: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(int(rest) // 50_000):
            self.wfile.write(b"%x\r\n%s\r\n" % (50_000, bytes(50_000)))
        self.wfile.write(b"0\r\n\r\n")

    def _gzip(self, rest: str) -> None:
        self._answer(gzip.compress(bytes(int(rest))), Content_Encoding="gzip")

    def _cut(self, rest: str) -> None:
        self.close_connection = True
        self._answer(CONTENT[:100], Content_Length=200)

    def _dropped(self, rest: str) -> None:
        self.close_connection = True

    def _banner(self, rest: str) -> None:
        self.close_connection = True
        self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")

    def _kept_once(self, rest: str) -> None:
        self._answer(CONTENT)
        self.rfile.readline()  # the next request on this connection, which gets no response
        self.close_connection = True

    def _trickle(self, rest: str) -> None:
        """Send the headers, the body or a chunk's size byte by byte until the client disconnects."""
        start = b"HTTP/1.1 200 OK\r\n"
        starts = {
            "head": start + b"X-Long: ",
            "body": start + b"Content-Length: 100000\r\n\r\n",
            "chunks": start + b"Transfer-Encoding: chunked\r\n\r\n1;",
        }
        self.close_connection = True
        self.server.open_slow += 1
        try:
            self.wfile.write(starts[rest])
            while not self.server.stop.wait(STEP_S):
                self.wfile.write(b"x")
        finally:
            self.server.open_slow -= 1


@contextlib.contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve a site until the end of the context."""
    with in_thread(site):
        try:
            yield site
        finally:
            site.stop.set()


def fails(fetch: Callable[[], object]) -> str:
    """Return the text of the error that a fetch raises."""
    with pytest.raises(InvalidInputError) as caught:
        fetch()
    return str(caught.value)


def times_out(site: Site, fetch: Callable[[float], object]) -> tuple[float, str]:
    """Fetch with ever longer limits until a request has reached the site; return that limit and the error."""
    for limit_s in LIMITS_S:
        message = fails(lambda: fetch(limit_s))  # noqa: B023
        if site.seen:
            return limit_s, message
    raise AssertionError("no request reached the site")
