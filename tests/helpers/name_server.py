"""A DNS server for one name, whose addresses a test can change."""

from __future__ import annotations

import socket
import struct
import threading
from types import TracebackType

HEADER, QUESTION_TAIL, TYPE_A = 12, 4, 1
ANSWERS, OWN_NAME = 0x8580, b"\xc0\x0c"


class NameServer:
    """DNS server that answers every query for an IPv4 address; a context manager.

    Args:
        *addresses: Addresses in the answer.
    """

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def target(self, port: int) -> str:
        """Return the gRPC target that resolves a name with this server."""
        return f"dns://127.0.0.1:{self.port}/servers.test:{port}"

    def _serve(self) -> None:
        while True:
            question, caller = self._socket.recvfrom(4096)
            if not question:
                return
            self._socket.sendto(self._answer(question), caller)

    def _answer(self, question: bytes) -> bytes:
        end = question.index(b"\0", HEADER) + 1
        (kind,) = struct.unpack("!H", question[end : end + 2])
        addresses = self.addresses if kind == TYPE_A else []
        records = [
            OWN_NAME + struct.pack("!HHIH", TYPE_A, 1, 1, 4) + socket.inet_aton(address)
            for address in addresses
        ]
        header = question[:2] + struct.pack("!HHHHH", ANSWERS, 1, len(records), 0, 0)
        return header + question[HEADER : end + QUESTION_TAIL] + b"".join(records)
