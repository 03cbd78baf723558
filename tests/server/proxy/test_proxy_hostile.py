"""Hostile requests to the proxy of docker/nginx that would crash or starve Triton 2.51."""

import contextlib
import gzip
import json
import socket

import pytest

from tests.helpers.clients import BOTH_PROTOCOLS
from tests.helpers.nginx_proxy import PATIENCE_S, Proxy, defaults, require_nginx
from tritonclip import Client, InferenceError, InvalidInputError

INFER = "/v2/models/clip_text_embedding/infer"
JSON = {"Content-Type": "application/json"}
HEADER_LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module", autouse=True)
def nginx():
    require_nginx()


@pytest.fixture(scope="module")
def target(servers, demo_repository):
    """Start a separate server, because a hostile request that gets through would crash it."""
    with servers.run(demo_repository, "may crash if the proxy forwards hostile requests") as running:
        yield running


@pytest.fixture(scope="module")
def guard(target, tmp_path_factory):
    """Run the proxy in front of that server."""
    with Proxy(target.http_url, target.grpc_url, tmp_path_factory.mktemp("nginx")) as running:
        yield running


@pytest.fixture
def unharmed(guard, target):
    """Check after the test that the server answers, directly and through the proxy."""
    yield
    for url in (target.grpc_url, guard.grpc_url, f"http://{guard.http_url}"):
        with Client(url, timeout_s=PATIENCE_S, attempts=1) as client:
            assert client.embed_texts("a").shape == (512,)


def nested(depth):
    """Return a request with nested lists of labels. Triton 2.51 crashes on a depth of 32,000."""
    return b'{"inputs":[{"name":"text","datatype":"BYTES","shape":[1,1],"data":%b"a"%b}]}' % (
        b"[" * depth,
        b"]" * depth,
    )


@BOTH_PROTOCOLS
def test_request_above_the_size_limit_is_rejected(make, protocol, guard, unharmed):
    with pytest.raises(InvalidInputError, match="too large.*limit"):
        make(guard.url(protocol), timeout_s=PATIENCE_S).embed_images([bytes(40_000_000)] * 2)


FORM = {"Content-Type": "application/x-www-form-urlencoded"}
DEPTH = 100_000


def deep():
    return nested(DEPTH)


def packed():
    return gzip.compress(deep())


HOSTILE = {
    "deep": (413, lambda: b"[" * 200_000, JSON),
    "deep labels": (413, lambda: nested(16_000), JSON),
    "deep, no type": (413, deep, {}),
    "deep, long header": (400, deep, {HEADER_LENGTH: str(len(nested(0)) + 2 * DEPTH)}),
    "negative header": (400, deep, {HEADER_LENGTH: "-1"}),
    "header as a float": (400, deep, {HEADER_LENGTH: "1e9"}),
    "deep, packed": (415, packed, {**JSON, "Content-Encoding": "gzip"}),
    "binary, packed": (415, packed, {HEADER_LENGTH: "99", "Content-Encoding": "deflate"}),
    "form": (415, lambda: b"a" * 6_000_000, FORM),
    "binary form": (415, lambda: b"a" * 6_000_000, {HEADER_LENGTH: "9", **FORM}),
    "small form": (415, lambda: b"a=b", {"Content-Type": "Application/X-WWW-Form-Urlencoded; charset=utf-8"}),
    "parts": (415, lambda: b"a", {"Content-Type": "multipart/form-data; boundary=b"}),
    "nearly JSON": (415, lambda: b"a", {"Content-Type": "application/jsonx"}),
    "too large": (413, lambda: b"a" * 80_000_000, {HEADER_LENGTH: "99"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_body_is_rejected(guard, unharmed, name):
    status, body, headers = HOSTILE[name]
    answered, text = guard.http("POST", INFER, body(), headers)
    assert answered == status
    assert set(json.loads(text)) == {"error"}


def test_deepest_forwarded_json_is_harmless(guard, unharmed):
    limit = int(defaults()["MAX_JSON_SIZE"].removesuffix("k")) * 1024
    body = nested((limit - len(nested(0))) // 2)
    assert limit - len(body) in (0, 1)
    assert guard.http("POST", INFER, body, JSON)[0] == 200
    assert guard.http("POST", INFER, b"[" * limit, JSON)[0] == 500


def test_body_after_a_short_json_part_is_not_parsed_as_json(guard, unharmed):
    for length in ("0", "9999"):
        assert guard.http("POST", INFER, b"[" * 200_000, {HEADER_LENGTH: length})[0] in (400, 500)


@pytest.mark.parametrize(("header", "status"), [(JSON, b"413"), ({HEADER_LENGTH: "99"}, b"500")])
def test_tiny_chunks_are_not_forwarded(guard, unharmed, header, status):
    host, port = guard.http_url.split(":")
    lines = [f"POST {INFER} HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"]
    lines += [f"{name}: {value}" for name, value in header.items()]
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        try:
            for _ in range(60):
                connection.sendall(b"1\r\n[\r\n" * 100_000)
            connection.sendall(b"0\r\n\r\n")
        except OSError:
            assert status == b"413"  # the proxy has responded and closed the connection
        assert connection.recv(100).startswith(b"HTTP/1.1 " + status)


def test_slow_requests_are_disconnected(target, unharmed, tmp_path):
    beginnings = [
        b"POST ",
        b"GET /v2 HTTP/1.1\r\nHost: a\r\n",
        b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{" % INFER.encode(),
    ]
    with (
        Proxy(target.http_url, target.grpc_url, tmp_path, CLIENT_TIMEOUT="1s") as impatient,
        contextlib.ExitStack() as stack,
    ):
        host, port = impatient.http_url.split(":")
        connections = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE_S))
            for _ in beginnings
        ]
        for connection, sent in zip(connections, beginnings, strict=True):
            connection.sendall(sent)
        for connection in connections:
            with pytest.raises(ConnectionResetError):
                connection.recv(1)


def test_compressed_grpc_message_is_rejected(guard, unharmed):
    with (
        Client(guard.grpc_url, compression="gzip") as client,
        pytest.raises(InferenceError, match="compressed"),
    ):
        client.embed_texts("a" * 1000)
