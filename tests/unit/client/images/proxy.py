"""A web proxy in the test's process, which forwards requests, makes tunnels and records both."""

from __future__ import annotations

import contextlib
import select
import socket
import socketserver
import urllib.parse
from collections.abc import Iterator

from tests.helpers.threads import in_thread


class Proxy(socketserver.ThreadingTCPServer):
    """A proxy.

    Attributes:
        url: Its address.
        asked: First line of each request.
        authorizations: Value of `Proxy-Authorization` of each request, or "".
        refuses: True if it refuses all tunnels.
    """

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients and hosts that disconnect early."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[str] = []
        self.authorizations: list[str] = []
        self.refuses = False


class _Handler(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        first = self.rfile.readline().decode()
        head = list(iter(self.rfile.readline, b"\r\n"))
        headers = dict(line.decode().rstrip().split(": ", 1) for line in head)
        headers = {name.lower(): value for name, value in headers.items()}
        self.server.asked.append(first.rsplit(" ", 1)[0])
        self.server.authorizations.append(headers.get("proxy-authorization", ""))
        method, target, _ = first.split(" ")
        if self.server.refuses:
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        parts = urllib.parse.urlsplit(target if method != "CONNECT" else f"//{target}")
        with socket.create_connection((parts.hostname or "", parts.port or 80)) as origin:
            if method == "CONNECT":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                origin.sendall(f"{method} {parts.path} HTTP/1.1\r\n".encode() + b"".join(head) + b"\r\n")
            ends = {self.connection: origin, origin: self.connection}
            while True:
                for ready in select.select(list(ends), [], [])[0]:
                    if not (block := ready.recv(65536)):
                        return
                    ends[ready].sendall(block)


@contextlib.contextmanager
def proxying() -> Iterator[Proxy]:
    """Run a proxy."""
    with in_thread(Proxy()) as proxy:
        yield proxy
