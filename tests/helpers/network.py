"""Proxies between clients and the real server in the tests.

A `Forwarder` forwards bytes and can fail like a network. `count_calls` forwards calls, records them, and can
reject some like an overloaded server.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from tritonclient.grpc.service_pb2 import ModelInferRequest

from tests.helpers.threads import in_thread
from tritonclip_server.serving.launcher import EmbeddedTriton

CHUNK_BYTES = 65536


class Forwarder(socketserver.ThreadingTCPServer):
    """Server that forwards connections to `target`, with TLS for clients if a context is given.

    Attributes:
        received_bytes: Number of bytes received from clients.
        connections: Number of connections so far.
        reject_next: Number of connections that will be closed immediately.
        cut_after_bytes: Number of response bytes after which a connection is closed.
        down: True while all connections are rejected.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, target: str, context: ssl.SSLContext | None = None) -> None:
        self.target, self.context = target, context
        self.received_bytes = self.connections = self.reject_next = 0
        self.cut_after_bytes: float = float("inf")
        self.down = False
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.address = f"127.0.0.1:{self.server_address[1]}"

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Count a connection, and return False to reject it; runs in one thread for all connections."""
        self.connections += 1
        if self.down:
            return False
        if self.reject_next:
            self.reject_next -= 1
            return False
        return True

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Forward one connection; runs in a separate thread."""
        host, _, port = self.target.rpartition(":")
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:  # either side may disconnect
            client = self.context.wrap_socket(request, server_side=True) if self.context else request
            upstream = stack.enter_context(socket.create_connection((host, int(port))))
            self._open |= {client, upstream}
            try:
                self._relay(stack.enter_context(client), upstream)
            finally:
                self._open -= {client, upstream}

    def _relay(self, client: socket.socket, upstream: socket.socket) -> None:
        answered = 0
        while True:
            pending = isinstance(client, ssl.SSLSocket) and client.pending()
            for side in [client] if pending else select.select([client, upstream], [], [])[0]:
                data = side.recv(CHUNK_BYTES)
                if not data:
                    return
                if side is client:
                    self.received_bytes += len(data)
                    upstream.sendall(data)
                else:
                    client.sendall(data[: int(min(len(data), self.cut_after_bytes - answered))])
                    answered += len(data)
            if answered >= self.cut_after_bytes:
                return

    def go_down(self) -> None:
        """Close all connections, and reject new ones until `down` is False again."""
        self.down = True
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Forwarder:
        """Start serving."""
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections and stop."""
        self.shutdown()
        self._thread.join()
        self.go_down()
        self.server_close()


class RecordedCalls:
    """Inference requests received by a recording proxy.

    Attributes:
        url: Address of the proxy.
        models: Model of each request.
        seen: Headers of each request, with names in lower case.
        bodies: Body of each request.
        reject_next: Number of requests that will be rejected with UNAVAILABLE, or 503 over HTTP.
        rejects: Returns True for the body of a request that will be rejected in the same way.
        on_call: Called with the number of requests so far, before a request is forwarded.
    """

    def __init__(self) -> None:
        self.url = ""
        self.rejects: Callable[[bytes], bool] = lambda body: False
        self.on_call: Callable[[int], None] = lambda number: None
        self.models: list[str] = []
        self.seen: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.reject_next = 0

    def record(self, path: str, headers: Any, body: bytes) -> bool:
        """Record a call, and return True if it must be rejected."""
        if not path.endswith(("/infer", "/ModelInfer")):
            return False
        self.models.append(_model(path, body))
        self.seen.append({name.lower(): value for name, value in headers})
        self.bodies.append(body)
        self.on_call(len(self.seen))
        self.reject_next -= 1
        return self.reject_next >= 0 or self.rejects(body)


def _model(path: str, body: bytes) -> str:
    """Return the model of an inference request: in the path over HTTP, in the message over gRPC."""
    if path.endswith("/ModelInfer"):
        return str(ModelInferRequest.FromString(body).model_name)
    return path.split("/")[3]


@contextlib.contextmanager
def count_calls(server: EmbeddedTriton, protocol: str) -> Iterator[RecordedCalls]:
    """Run a proxy in front of the server that forwards and records whole calls."""
    with (_grpc_proxy if protocol == "grpc" else _http_proxy)(server) as calls:
        yield calls


@contextlib.contextmanager
def _grpc_proxy(server: EmbeddedTriton) -> Iterator[RecordedCalls]:
    calls = RecordedCalls()
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

    class ForwardingHandler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            def answer(body: bytes, context: Any) -> bytes:
                if calls.record(details.method, details.invocation_metadata, body):
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the server accepts no more requests")
                metadata = [item for item in details.invocation_metadata if item[0] != "user-agent"]
                try:
                    return bytes(channel.unary_unary(details.method)(body, metadata=metadata))
                except grpc.RpcError as error:
                    context.abort(error.code(), error.details())
                    raise

            return grpc.unary_unary_rpc_method_handler(answer)

    with ThreadPoolExecutor(8) as pool, grpc.insecure_channel(server.grpc_url, options=unlimited) as channel:
        proxy = grpc.server(pool, handlers=[ForwardingHandler()], options=unlimited)
        calls.url = f"127.0.0.1:{proxy.add_insecure_port('127.0.0.1:0')}"
        proxy.start()
        yield calls
        proxy.stop(None).wait()


@contextlib.contextmanager
def _http_proxy(server: EmbeddedTriton) -> Iterator[RecordedCalls]:
    calls = RecordedCalls()

    class ForwardingHandler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # noqa: N802  # called by http.server
            if "Content-Length" in self.headers:
                body = self.rfile.read(int(self.headers["Content-Length"]))
            else:  # chunked, as aiohttp sends a file
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                del self.headers["Transfer-Encoding"]
            if calls.record(self.path, self.headers.items(), body):
                self._send(503, {}, b'{"error": "the server accepts no more requests"}')
                return
            with contextlib.closing(http.client.HTTPConnection(server.http_url)) as upstream:
                upstream.request(self.command, self.path, body, dict(self.headers.items()))
                answer = upstream.getresponse()
                self._send(answer.status, dict(answer.getheaders()), answer.read())

        def do_GET(self) -> None:  # noqa: N802
            self.headers["Content-Length"] = "0"
            self.do_POST()

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with in_thread(http.server.ThreadingHTTPServer(("127.0.0.1", 0), ForwardingHandler)) as proxy:
        calls.url = f"127.0.0.1:{proxy.server_port}"
        yield calls
