"""HTTP/2 frames of gRPC calls that no gRPC library would send."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS = 1, 4
EMPTY_MESSAGE = bytes(5)
"""Frame of an empty gRPC message."""
PATIENCE_S = 60
Headers = Sequence[tuple[bytes, bytes]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def call_headers(path: bytes, **changes: bytes | None) -> list[tuple[bytes, bytes]]:
    """Return the headers of a valid call, with some values replaced, or left out if None.

    Args:
        path: Path of the method.
        changes: Values by header, whose name has `_` for `-` and no colon.
    """
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"a")]
    headers += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    named = [
        (name, changes.get(name.decode().strip(":").replace("-", "_"), value)) for name, value in headers
    ]
    return [(name, value) for name, value in named if value is not None]


def open_stream(stream: int, headers: Headers, flags: int = 0) -> bytes:
    """Return the frame of a call's headers, as literals without compression."""
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)
    return frame(HEADERS, END_HEADERS | flags, stream, block)


def _text(content: bytes) -> bytes:
    """Return a string literal of HPACK. Source: RFC 7541, sections 5.1 and 5.2."""
    length = len(content)
    if length < 127:
        return bytes((length,)) + content
    length, encoded = length - 127, b"\x7f"
    while length >= 128:
        length, encoded = length >> 7, encoded + bytes((length & 127 | 128,))
    return encoded + bytes((length,)) + content


def connect(address: str) -> socket.socket:
    """Connect to HOST:PORT, and send the preface and empty settings."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), PATIENCE_S)
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
    return connection


def frames(connection: socket.socket) -> Iterator[tuple[int, int, int]]:
    """Yield kind, flags and stream of each frame until the peer closes the connection."""
    with connection.makefile("rb") as received:
        while len(head := received.read(9)) == 9:
            received.read(int.from_bytes(head[:3], "big"))
            yield head[3], head[4], int.from_bytes(head[5:], "big")


def call(address: str, headers: Headers, body: bytes = EMPTY_MESSAGE) -> None:
    """Make one call with any headers and body, and wait for its end, however it ends."""
    with connect(address) as connection:
        connection.sendall(open_stream(1, headers) + frame(DATA, END_STREAM, 1, body))
        try:
            for kind, flags, stream in frames(connection):
                if kind == GOAWAY or (stream == 1 and (kind == RST_STREAM or flags & END_STREAM)):
                    return
        except ConnectionResetError:
            return
