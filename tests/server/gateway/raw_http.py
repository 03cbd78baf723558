"""HTTP over a bare socket, for what no client library would send, or not so slowly."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

BOUNDARY = "part-of-the-tests"
WAIT_S = 20


@dataclass
class Reply:
    """What came back, up to the end of its body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """Its error."""
        error: dict[str, Any] = json.loads(self.body)["error"]
        return error


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """A connection to a gateway."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), WAIT_S) as connection:
        yield connection


def head(path: str, **headers: object) -> bytes:
    """A POST request's line and headers; underscores stand for hyphens."""
    lines = [f"POST {path} HTTP/1.1", "Host: gateway"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def upload(path: str, files: list[bytes], **headers: object) -> bytes:
    """A whole POST of files as the form field `images`, and two labels."""
    body = b"".join(part("images", file, "a.jpg") for file in files)
    body += part("labels", b"a red circle") + part("labels", b"the digit 7") + f"--{BOUNDARY}--\r\n".encode()
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return head(path, Content_Type=kind, Content_Length=len(body), **headers) + body


def part(name: str, content: bytes, file: str | None = None) -> bytes:
    """One part of a form."""
    named = f'; filename="{file}"' if file else ""
    start = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return start.encode() + content + b"\r\n"


def read_reply(connection: socket.socket) -> Reply:
    """The next reply; raises ConnectionError where the connection ends without one."""
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
    """Whether the other side ends the connection, once all is read; waits for it."""
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
