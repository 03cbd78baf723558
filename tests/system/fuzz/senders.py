"""Senders of valid and invalid requests, several at once; no call waits longer than `TIMEOUT_S`."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Protocol

import grpc

from tests.system.fuzz.wire import Reply, Request, grpc_body, grpc_outputs, http_outputs, http_parts

TIMEOUT_S = 300.0
"""Time limit of one call. The most expensive images within the limits take seconds; a longer call hangs."""
METHOD = "/inference.GRPCInferenceService/ModelInfer"
BATCH = 8
NO_ANSWER = {grpc.StatusCode.DEADLINE_EXCEEDED: "HANG", grpc.StatusCode.UNKNOWN: "UNKNOWN"}


class Sender(Protocol):
    """A sender of one protocol."""

    def send(self, requests: Sequence[Request | bytes]) -> list[Reply]:
        """Send all requests at once; bytes are a whole message of the protocol and are sent unchanged."""

    def close(self) -> None:
        """Close the connections."""


class GrpcSender:
    """Sender of ModelInfer messages over one channel."""

    def __init__(self, url: str) -> None:
        sizes = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(url, options=sizes)
        self._call = self._channel.unary_unary(METHOD)  # no serializers: bytes in, bytes out

    def send(self, requests: Sequence[Request | bytes]) -> list[Reply]:
        """Send all requests at once; bytes are a serialized message."""
        futures = [self._start(request) for request in requests]
        return [self._reply(future) for future in futures]

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _start(self, request: Request | bytes) -> grpc.Future:
        if isinstance(request, bytes):
            return self._call.future(request, timeout=TIMEOUT_S)
        metadata = [(name.lower(), value) for name, value in request.headers.items()]
        return self._call.future(grpc_body(request), timeout=TIMEOUT_S, metadata=metadata)

    def _reply(self, future: grpc.Future) -> Reply:
        try:
            return Reply("OK", outputs=grpc_outputs(future.result()))
        except grpc.RpcError as error:
            code = error.code()
            return Reply(NO_ANSWER.get(code, code.name), error.details() or "")


class HttpSender:
    """Sender of POST requests and raw bytes, each over a new connection."""

    def __init__(self, url: str) -> None:
        host, port = url.rsplit(":", 1)
        self._address = (host, int(port))
        self._pool = ThreadPoolExecutor(BATCH)

    def send(self, requests: Sequence[Request | bytes]) -> list[Reply]:
        """Send all requests at once; bytes are a whole HTTP message with its head."""
        return list(self._pool.map(self._send, requests))

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()

    def _send(self, request: Request | bytes) -> Reply:
        try:
            with socket.create_connection(self._address, TIMEOUT_S) as connection:
                connection.sendall(request if isinstance(request, bytes) else self._message(request))
                if isinstance(request, bytes):
                    with contextlib.suppress(OSError):  # Triton may have answered and closed the connection
                        connection.shutdown(socket.SHUT_WR)  # a body shorter than announced ends here
                return _read(connection)
        except TimeoutError:
            return Reply("HANG", f"no answer within {TIMEOUT_S:.0f} s")
        except (OSError, http.client.HTTPException) as error:
            return Reply("CLOSED", repr(error))

    def _message(self, request: Request) -> bytes:
        path, headers, body = http_parts(request)
        return http_message(
            path, {"Host": self._address[0], "Content-Length": str(len(body)), **headers}, body
        )


def http_message(path: str, headers: dict[str, str], body: bytes, method: str = "POST") -> bytes:
    """Build an HTTP message with these headers and no others."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("utf-8") + body


def _read(connection: socket.socket) -> Reply:
    answer = http.client.HTTPResponse(connection)
    try:
        answer.begin()
        body = answer.read()
        head = answer.getheader("Inference-Header-Content-Length")
    finally:
        answer.close()
    if answer.status != 200:
        return Reply(str(answer.status), body.decode("utf-8", errors="replace"))
    return Reply("OK", outputs=http_outputs(body, int(head)) if head else None)


class Senders:
    """The senders of both protocols, as a context manager."""

    def __init__(self, grpc_url: str, http_url: str) -> None:
        self._senders: dict[str, Sender] = {"grpc": GrpcSender(grpc_url), "http": HttpSender(http_url)}

    def __enter__(self) -> Senders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sender in self._senders.values():
            sender.close()

    def __getitem__(self, protocol: str) -> Sender:
        return self._senders[protocol]
