"""HTTP over a plain socket, for malformed and slow requests that client libraries do not send."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

BOUNDARY = "part-of-the-tests"
WAIT_S = 120


@dataclass
class Reply:
    """A complete HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error in the body."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """Connect to a gateway."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), WAIT_S) as connection:
        yield connection


def head(path: str, **headers: object) -> bytes:
    """Return the request line and headers of a POST. Underscores in names become hyphens."""
    lines = [f"POST {path} HTTP/1.1", "Host: gateway"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def upload(path: str, files: list[bytes], **headers: object) -> bytes:
    """Return a complete POST with files in the form field `images`, and two labels."""
    body = b"".join(part("images", file, "a.jpg") for file in files)
    body += part("labels", b"a red circle") + part("labels", b"the digit 7") + f"--{BOUNDARY}--\r\n".encode()
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return head(path, Content_Type=kind, Content_Length=len(body), **headers) + body


def part(name: str, content: bytes, file: str | None = None) -> bytes:
    """Return one part of a form."""
    named = f'; filename="{file}"' if file else ""
    start = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return start.encode() + content + b"\r\n"


def read_reply(connection: socket.socket) -> Reply:
    """Read the next response; raise ConnectionError if the connection closes without one."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(connection)
    first, _, rest = received.partition(b"\r\n\r\n")
    line, *fields = first.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
    while len(rest) < int(headers.get("content-length", 0)):
        rest += _more(connection)
    return Reply(int(line.split()[1]), headers, rest)


def is_closed(connection: socket.socket) -> bool:
    """Wait for the other side to close the connection, and return True if it does."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def _more(connection: socket.socket) -> bytes:
    received = connection.recv(65536)
    if not received:
        raise ConnectionError("closed before the end of the reply")
    return received
