"""The transports against real sockets that are closed, silent or not Triton. See tests/server for Triton."""

from __future__ import annotations

import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.helpers.answers import Answers, answering
from tests.helpers.waiting import wait_until
from tritonclip import (
    Client,
    DeadlineExceededError,
    InferenceError,
    InvalidInputError,
    ModelNotReadyError,
    ServerUnavailableError,
    TritonClipError,
)

PROTOCOLS = ["grpc", "http"]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


class Resets(socketserver.ThreadingTCPServer):
    """An HTTP/2 server that resets each stream, as a proxy does if its upstream dies during a call."""

    daemon_threads = True
    calls = 0
    SETTINGS, PING, HEADERS, RST_STREAM, ACK, END_HEADERS = 4, 6, 1, 3, 1, 4
    INTERNAL_ERROR, CANCEL = 2, 8
    STATUS_200 = b"\x88\x0f\x10\x10application/grpc"  # HPACK of :status and content-type

    def __init__(self, code: int, headers_first: bool) -> None:
        resets = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.rfile.read(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
                self.send(resets.SETTINGS)
                while head := self.rfile.read(9):
                    kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
                    content = self.rfile.read(int.from_bytes(head[:3], "big"))
                    if kind in (resets.SETTINGS, resets.PING) and not flags & resets.ACK:
                        self.send(kind, resets.ACK, content=content if kind == resets.PING else b"")
                    if kind == resets.HEADERS:
                        resets.calls += 1
                        if headers_first:
                            self.send(kind, resets.END_HEADERS, stream, resets.STATUS_200)
                        self.send(resets.RST_STREAM, 0, stream, code.to_bytes(4, "big"))

            def send(self, kind: int, flags: int = 0, stream: int = 0, content: bytes = b"") -> None:
                head = len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
                self.wfile.write(head + content)

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.mark.parametrize("code", [Resets.INTERNAL_ERROR, Resets.CANCEL])
@pytest.mark.parametrize("headers_first", [False, True])
def test_call_whose_stream_a_proxy_resets_is_retried(headers_first: bool, code: int) -> None:
    with Resets(code, headers_first) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            with Client(f"127.0.0.1:{server.server_address[1]}", attempts=2) as client:
                with pytest.raises(ServerUnavailableError, match="RST_STREAM"):
                    client.embed_texts("x")
        finally:
            server.shutdown()
    assert server.calls == 2


@pytest.fixture
def answers() -> Iterator[Answers]:
    with answering() as server:
        yield server


def calls(client: Client) -> list[Any]:
    return [
        lambda: client.classify(b"x"),
        lambda: client.embed_images([b"x"]),
        lambda: client.embed_texts("x"),
        lambda: client.similarity(b"x", "x"),
        client.health,
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refused_connection_raises_unavailable_with_the_endpoint(protocol: str, closed_port: int) -> None:
    with Client(f"127.0.0.1:{closed_port}", protocol=protocol, attempts=1) as client:
        for call in calls(client):
            with pytest.raises(ServerUnavailableError, match="refused.*check the URL") as caught:
                call()
            assert caught.value.endpoint == f"{protocol}://127.0.0.1:{closed_port}"
            assert caught.value.__cause__ is not None
        with pytest.raises(ServerUnavailableError) as caught:
            client.classify(b"x")
        assert caught.value.model == "clip_zero_shot"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_silent_server_raises_deadline_exceeded(protocol: str, silent_port: int) -> None:
    with Client(f"127.0.0.1:{silent_port}", protocol=protocol, timeout_s=0.05) as client:
        for call in calls(client):
            with pytest.raises(DeadlineExceededError, match=r"within 0\.05 s.*timeout_s"):
                call()
        with pytest.raises(TimeoutError, match=r"within 0\.06 s"):
            client.classify(b"x", timeout_s=0.06)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), True])
def test_invalid_timeout_of_a_call_is_rejected(protocol: str, timeout_s: float, closed_port: int) -> None:
    with Client(f"127.0.0.1:{closed_port}", protocol=protocol) as client:
        for call in (
            lambda: client.classify(b"x", timeout_s=timeout_s),
            lambda: client.health(timeout_s=timeout_s),
        ):
            with pytest.raises(InvalidInputError, match="timeout_s"):
                call()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_invalid_input_is_rejected_before_any_connection(protocol: str, closed_port: int) -> None:
    with Client(f"127.0.0.1:{closed_port}", protocol=protocol) as client:
        for call in (
            lambda: client.classify([b"x", b""]),
            lambda: client.classify(b"x", [""]),
            lambda: client.classify(b"x", hypothesis_template="none"),
            lambda: client.embed_images([]),
            lambda: client.embed_texts([]),
            lambda: client.similarity(b"x", ["\ud800"]),
        ):
            with pytest.raises(InvalidInputError):
                call()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_closed_client_raises_runtime_error(protocol: str, closed_port: int) -> None:
    client = Client(f"127.0.0.1:{closed_port}", protocol=protocol)
    client.close()
    client.close()
    for call in calls(client):
        with pytest.raises(RuntimeError, match="after close"):
            call()


@pytest.mark.parametrize("exempt", ["", "127.0.0.1"])
def test_error_over_grpc_names_the_proxy_in_the_way(
    closed_port: int, monkeypatch: pytest.MonkeyPatch, exempt: str
) -> None:
    monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{closed_port}")
    monkeypatch.setenv("no_proxy", exempt)
    with Client(f"grpc://127.0.0.1:{closed_port}", attempts=1) as client:
        with pytest.raises(ServerUnavailableError) as caught:
            client.health()
    shown = (
        f"gRPC connects through the proxy http://127.0.0.1:{closed_port} (variable http_proxy); "
        "to connect directly, add 127.0.0.1 to no_proxy."
    )
    assert (shown in caught.value.message) == (not exempt)
    assert "secret" not in str(caught.value)


def test_grpc_to_an_http_port_raises_unavailable(answers: Answers) -> None:
    with Client(answers.url.removeprefix("http://"), protocol="grpc", attempts=1) as client:
        with pytest.raises(ServerUnavailableError, match="the port of an HTTP server"):
            client.health()


def test_http_to_a_port_of_another_protocol_raises_unavailable() -> None:
    def greet() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"220 mail.example.com ESMTP\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=greet)
        thread.start()
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}", attempts=1) as client:
            with pytest.raises(ServerUnavailableError, match="not an HTTP port"):
                client.classify(b"x")
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "kind", "part"),
    [
        (
            400,
            b'{"error": "in ensemble \'e\', image 0: not an image"}',
            InvalidInputError,
            "^image 0: not an",
        ),
        (
            404,
            b'{"error": "Request for unknown model: \'x\' is not found"}',
            ModelNotReadyError,
            "unknown model",
        ),
        (500, b'{"error": "boom"}', InferenceError, "boom"),
        (503, b'{"error": "busy"}', ServerUnavailableError, "busy"),
        (502, b"<html>bad gateway</html>", ServerUnavailableError, "decoding the response"),
        (413, b"<html>too large</html>", InvalidInputError, "fewer or smaller"),
        (200, b"<html>welcome</html>", InferenceError, "JSON"),
        (200, b'{"outputs": []}', InferenceError, "has no 'scores'"),
    ],
)
def test_http_status_and_body_map_to_an_error(
    answers: Answers, status: int, body: bytes, kind: type[TritonClipError], part: str
) -> None:
    answers.status, answers.body = status, body
    with Client(answers.url, attempts=1) as client:
        with pytest.raises(kind, match=part) as caught:
            client.classify(b"x")
    assert type(caught.value) is kind
    assert (caught.value.model, caught.value.endpoint) == ("clip_zero_shot", answers.url)


@pytest.mark.parametrize("message", ["label 1 is too long: 9 bytes", "too many labels: 2 in one request"])
def test_invalid_label_ends_a_bulk_run_after_one_request(answers: Answers, message: str) -> None:
    answers.status, answers.body = 400, b'{"error": "%s"}' % message.encode()
    with Client(answers.url) as client:
        with pytest.raises(InvalidInputError, match=f"^{message}"):
            list(client.classify_many([b"x"] * 8, ["a", "b"], on_error="return"))
    assert len(answers.bodies) == 1


def test_invalid_images_of_a_bulk_run_are_found_by_bisection(answers: Answers) -> None:
    answers.status, answers.body = 400, b'{"error": "image 0: not an image"}'
    with Client(answers.url) as client:
        results = list(client.classify_many([b"x"] * 4, ["a", "b"], on_error="return"))
    assert [str(one)[:22] for one in results] == [f"image {index}: not an image." for index in range(4)]
    assert len(answers.bodies) == 7


def test_invalid_text_of_a_bulk_run_is_named_by_its_index(answers: Answers) -> None:
    answers.status, answers.body = 400, b'{"error": "label 0 is too long"}'
    with Client(answers.url) as client:
        results = list(client.embed_texts_many(["a", "b"], on_error="return"))
    assert [str(one)[:18] for one in results] == ["text 0 is too long", "text 1 is too long"]


def test_http_client_works_after_a_missed_deadline(answers: Answers) -> None:
    released = threading.Event()
    answers.before_answer = released.wait
    with Client(answers.url) as client:
        try:
            with pytest.raises(DeadlineExceededError):
                client.health(timeout_s=0.05)
        finally:
            released.set()
        assert client.health().ok


EMBEDDINGS = b"""{"outputs": [
    {"name": "text_embeds", "datatype": "FP32", "shape": [1, 2, 2], "data": [1, 0, 0.6, 0.8]},
    {"name": "token_counts", "datatype": "INT32", "shape": [1, 2], "data": [3, 3]},
    {"name": "image_embeds", "datatype": "FP32", "shape": [1, 1, 2], "data": [0.6, 0.8]}
]}"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the clock of the deadlines, which stands still until a test sets `now`."""
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("tritonclip._calls.request.time", clock)
    return clock


def test_similarity_sends_two_requests_within_one_deadline(answers: Answers, clock: SimpleNamespace) -> None:
    answers.body = EMBEDDINGS
    answers.before_answer = lambda: setattr(clock, "now", clock.now + 20)
    with Client(answers.url) as client:
        result = client.similarity(b"x", ["a", "b"], timeout_s=60)
    np.testing.assert_allclose(result, [[0.6, 1.0]], rtol=1e-6)
    assert [parameters["deadline_ms"] for parameters in answers.parameters] == [60_000, 40_000]


def test_second_request_of_similarity_ends_at_the_deadline(answers: Answers, clock: SimpleNamespace) -> None:
    released = threading.Event()

    def hold_the_second_request() -> None:
        clock.now += 60
        if len(answers.bodies) == 2:
            released.wait()

    answers.body, answers.before_answer = EMBEDDINGS, hold_the_second_request
    with Client(answers.url) as client:
        try:
            with pytest.raises(DeadlineExceededError, match=r"within 60 s"):
                client.similarity(b"x", ["a", "b"], timeout_s=60)
        finally:
            released.set()


def test_health_over_http_reports_every_model(answers: Answers) -> None:
    with Client(answers.url) as client:
        assert client.health().ok
        answers.status = 400
        health = client.health()
    assert not (health.ok or health.live or health.ready)
    assert health.models == {
        "clip_zero_shot": False,
        "clip_image_embedding": False,
        "clip_text_embedding": False,
        "clip_pixel_embedding": False,
    }


def test_http_client_serves_many_threads(answers: Answers) -> None:
    results = []
    with Client(answers.url) as client:
        threads = [threading.Thread(target=lambda: results.append(client.health().ok)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [True] * 8


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files by /proc")
def test_http_threads_leave_no_open_files(answers: Answers) -> None:
    def in_a_thread(call: Any) -> None:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    def with_its_own_client() -> None:
        with Client(answers.url) as own:
            own.health()

    def files() -> int:
        return len(os.listdir("/proc/self/fd"))

    with Client(answers.url) as client:
        in_a_thread(client.health)
        before = files()
        for _ in range(20):
            in_a_thread(client.health)
            in_a_thread(with_its_own_client)
            Client(answers.url).health()
        # What is left belongs to one thread. The server closes its side of the connections a little later.
        wait_until(lambda: files() < before + 20, lambda: f"{files() - before} files more are open", 60)
