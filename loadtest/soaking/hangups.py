"""Clients that disconnect during a request, over HTTP and gRPC, throughout a soak.

The server must release what they leave behind: buffers, file handles, and requests without a caller.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from types import TracebackType

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

MODEL = "clip_zero_shot"
LABELS = (b"a red circle", b"a blue square", b"the digit 7")
RESET = struct.pack("ii", 1, 0)
"""Socket option that closes with RST, as the kernel does for a killed client."""
MAX_WAIT_S = 0.03
"""About the latency of a request, so that clients disconnect in each of its stages."""
CONNECT_TIMEOUT_S = 5.0


class HangUps:
    """One disconnecting client after another, in a background thread; a context manager.

    Args:
        grpc_url: Address, host:port.
        http_url: Address, host:port.
        image: An encoded image to send.
        every_s: Seconds between two clients.
        seed: Seed of the order of clients and their delays.
    """

    def __init__(
        self, grpc_url: str, http_url: str, image: bytes, every_s: float = 1.0, seed: int = 0
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._grpc_url, self._every_s = grpc_url, every_s
        self._http_address = socket_address(http_url)
        self._image = image
        self._request = http_request(http_url, image)
        self._random = random.Random(seed)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hang-ups", daemon=True)

    def __enter__(self) -> HangUps:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop after the current client."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        ways = {
            "HTTP, during the body": self._http_in_body,
            "HTTP, before the response": self._http_before_response,
            "gRPC, cancelled": self._grpc_cancelled,
            "gRPC, deadline": self._grpc_deadline,
        }
        while not self._stopped.wait(self._every_s):
            name = self._random.choice(list(ways))
            # The sampler and the other clients detect a server that does not respond.
            with contextlib.suppress(OSError, InferenceServerException):
                ways[name]()
            self.counts[name] += 1

    def _http_in_body(self) -> None:
        self._send(self._request[: self._random.randrange(1, len(self._request))])

    def _http_before_response(self) -> None:
        self._send(self._request)

    def _send(self, content: bytes) -> None:
        with socket.create_connection(self._http_address, CONNECT_TIMEOUT_S) as connection:
            connection.sendall(content)
            time.sleep(self._random_wait_s())
            if self._random.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def _grpc_cancelled(self) -> None:
        with tritonclient.grpc.InferenceServerClient(self._grpc_url) as client:
            answered = threading.Event()
            call = client.async_infer(
                MODEL, tensors(tritonclient.grpc, self._image), lambda result, error: answered.set()
            )
            time.sleep(self._random_wait_s())
            call.cancel()
            answered.wait(CONNECT_TIMEOUT_S)

    def _grpc_deadline(self) -> None:
        with tritonclient.grpc.InferenceServerClient(self._grpc_url) as client:
            inputs = tensors(tritonclient.grpc, self._image)
            client.infer(MODEL, inputs, client_timeout=self._random_wait_s())

    def _random_wait_s(self) -> float:
        return self._random.uniform(0.001, MAX_WAIT_S)


def socket_address(url: str) -> tuple[str, int]:
    """Split `host:port`."""
    host, _, port = url.rpartition(":")
    return host, int(port)


def http_request(url: str, image: bytes) -> bytes:
    """Return a complete HTTP request, headers and body, that classifies the image."""
    body, json_bytes = tritonclient.http.InferenceServerClient.generate_request_body(
        tensors(tritonclient.http, image)
    )
    head = (
        f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: {url}\r\nContent-Type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {json_bytes}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + bytes(body)


def tensors(module: object, image: bytes) -> list[object]:
    """Return the inputs of a request with one image and LABELS, for either client module of Triton."""
    inputs = []
    for name, elements in (("image", [image]), ("labels", list(LABELS))):
        tensor = np.empty((1, len(elements)), dtype=object)
        tensor[0, :] = elements
        inputs.append(module.InferInput(name, list(tensor.shape), "BYTES"))  # type: ignore[attr-defined]
        inputs[-1].set_data_from_numpy(tensor)
    return inputs
