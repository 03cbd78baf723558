"""Malformed requests to the proxy of docker/nginx: it rejects them, and no server behind it is given up."""

import contextlib
import itertools
import socket
import threading

import pytest

from tests.helpers import http2
from tests.helpers.calls import together
from tests.helpers.network import Forwarder, count_calls
from tests.helpers.nginx_proxy import PATIENCE_S, UNLIMITED, Proxy, balanced, require_nginx
from tritonclip import Client
from tritonclip_server.serving.launcher import free_port

LIVE = b"/inference.GRPCInferenceService/ServerLive"
INFER = b"/inference.GRPCInferenceService/ModelInfer"
HEALTH = b"/grpc.health.v1.Health/Check"
CALLERS = 8
CALLS = 24


def http_request(line, *headers, body=b""):
    return b"\r\n".join((line + b" HTTP/1.1", b"Host: a", *headers, b"Connection: close", b"", b"")) + body


REJECTED_HTTP = {
    "line feed": (404, http_request(b"GET /v2/health/live%0a")),
    "line feed after a version": (404, http_request(b"GET /v2/models/clip_zero_shot/stats%0a")),
    "line feed and host": (404, http_request(b"GET http://a/v2%0a")),
    "line feed of an inference": (
        404,
        http_request(b"POST /v2/models/clip_a/infer%0a", b"Content-Length: 0"),
    ),
    "carriage return": (404, http_request(b"GET /v2/health/live%0d")),
    "zero": (400, http_request(b"GET /v2/health/live%00")),
    "control character": (400, http_request(b"GET /v2/health/live\x01")),
    "GET with a body": (400, http_request(b"GET /v2", b"Content-Length: 1", body=b"a")),
    "GET with chunks": (400, http_request(b"GET /v2", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    "length and chunks": (400, http_request(b"GET /v2", b"Content-Length: 0", b"Transfer-Encoding: chunked")),
    "two lengths": (400, http_request(b"GET /v2", b"Content-Length: 0", b"Content-Length: 1")),
    "encoding 0": (
        415,
        http_request(b"POST /v2/models/clip_a/infer", b"Content-Encoding: 0", b"Content-Length: 0"),
    ),
}
REJECTED_GRPC = {
    **{
        f"timeout {value!r}": [*http2.call_headers(LIVE), (b"grpc-timeout", value)]
        for value in (b"zzz", b"-1S", b"5X", b"5 S", b"S", b"999999999S")
    },
    "timeout, health": [*http2.call_headers(HEALTH), (b"grpc-timeout", b"zzz")],
    "no te": http2.call_headers(LIVE, te=None),
    "te": http2.call_headers(LIVE, te=b"gzip"),
    "no content type": http2.call_headers(LIVE, content_type=None),
    "content type": http2.call_headers(LIVE, content_type=b"application/json"),
    "similar content type": http2.call_headers(LIVE, content_type=b"application/grpc-web"),
    **{
        f"method {method.decode()}": http2.call_headers(LIVE, method=method)
        for method in (b"GET", b"PUT", b"FOO")
    },
    "line feed": http2.call_headers(LIVE + b"%0a"),
    "line feed, health": http2.call_headers(HEALTH + b"%0a"),
}
FORWARDED = {
    "deadline over": ([*http2.call_headers(LIVE), (b"grpc-timeout", b"0S")], http2.EMPTY_MESSAGE),
    "timeout twice": (
        [*http2.call_headers(LIVE), (b"grpc-timeout", b"5S"), (b"grpc-timeout", b"z")],
        http2.EMPTY_MESSAGE,
    ),
    "binary metadata": ([*http2.call_headers(LIVE), (b"x-bin", b"@@")], http2.EMPTY_MESSAGE),
    "metadata of gRPC": (
        [*http2.call_headers(LIVE), (b"grpc-previous-rpc-attempts", b"z"), (b"grpc-tags-bin", b"@")],
        http2.EMPTY_MESSAGE,
    ),
    "metadata of 14 kB": (
        [*http2.call_headers(LIVE), (b"a", b"a" * 7000), (b"b", b"b" * 7000)],
        http2.EMPTY_MESSAGE,
    ),
    "no message": (http2.call_headers(LIVE), b""),
    "cut message": (http2.call_headers(LIVE), b"\0\0\0\0\x09a"),
    "unknown flag": (http2.call_headers(LIVE), b"\x02\0\0\0\0"),
    "huge length": (http2.call_headers(LIVE), b"\0\xff\xff\xff\xff"),
    "no protobuf": (http2.call_headers(INFER), b"\0\0\0\0\x04\xff\xff\xff\xff"),
}
"""Calls that nginx cannot judge. Triton resets the stream of most of them."""


@pytest.fixture(scope="module", autouse=True)
def nginx():
    require_nginx()


@pytest.fixture(scope="module")
def counted(server, tmp_path_factory):
    """Run the proxy in front of forwarders for HTTP and gRPC, which count connections."""
    with contextlib.ExitStack() as stack:
        http, grpc = (stack.enter_context(Forwarder(url)) for url in (server.http_url, server.grpc_url))
        folder = tmp_path_factory.mktemp("nginx")
        yield stack.enter_context(Proxy(http.address, grpc.address, folder, **UNLIMITED)), http, grpc


@pytest.fixture(scope="module")
def pair(server, tmp_path_factory):
    """Run the proxy in front of two addresses for each protocol."""
    http, grpc = (balanced(url, url) for url in (server.http_url, server.grpc_url))
    with Proxy(http, grpc, tmp_path_factory.mktemp("nginx"), **UNLIMITED) as running:
        yield running


def send(address, request):
    """Send bytes to HOST:PORT, and return the answer."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("name", REJECTED_HTTP)
def test_malformed_http_request_is_rejected_by_the_proxy(counted, name):
    proxy, http, _ = counted
    status, request = REJECTED_HTTP[name]
    before = http.connections
    assert send(proxy.http_url, request).startswith(b"HTTP/1.1 %d " % status)
    assert http.connections == before


@pytest.mark.parametrize("name", REJECTED_GRPC)
def test_malformed_grpc_call_is_rejected_by_the_proxy(counted, name):
    proxy, _, grpc = counted
    before = grpc.connections
    http2.call(proxy.grpc_url, REJECTED_GRPC[name])
    assert grpc.connections == before


def test_malformed_call_is_an_invalid_argument(server, tmp_path):
    headers = (b"TE: trailers", b"Content-Type: application/grpc", b"grpc-timeout: zzz", b"Content-Length: 0")
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    with Proxy(server.http_url, server.grpc_url, tmp_path, GRPC_LISTEN=address):  # HTTP/1.1 is readable
        answer = send(address, http_request(b"POST " + LIVE, *headers))
    assert b"grpc-status: 3\r\n" in answer
    assert b"grpc-message: malformed call: check the method, te, content-type and grpc-timeout\r\n" in answer


def test_malformed_requests_cost_other_callers_nothing(pair):
    done = threading.Event()

    def honest(index):
        protocol = ("grpc", "http")[index % 2]
        with Client(pair.url(protocol), protocol=protocol, timeout_s=PATIENCE_S, attempts=1) as client:
            return [client.embed_texts("a").shape for _ in range(CALLS)]

    def malformed():
        requests = [
            *(lambda one=one: send(pair.http_url, one) for _, one in REJECTED_HTTP.values()),
            *(lambda one=one: http2.call(pair.grpc_url, one) for one in REJECTED_GRPC.values()),
            *(lambda one=one: http2.call(pair.grpc_url, *one) for one in FORWARDED.values()),
        ]
        for number, request in enumerate(itertools.cycle(requests)):
            if done.is_set() and number >= len(requests):
                return
            with contextlib.suppress(ConnectionResetError):
                request()

    thread = threading.Thread(target=malformed)
    thread.start()
    try:
        answers = together(CALLERS, honest)
    finally:
        done.set()
        thread.join()
    assert answers == [[(512,)] * CALLS] * CALLERS
    assert honest(0) == honest(1) == [(512,)] * CALLS  # after every malformed request was sent


def test_http_requests_share_a_connection_and_lose_admin_key_and_encoding(server, tmp_path):
    body = b'{"inputs":[{"name":"text","datatype":"BYTES","shape":[1,1],"data":["a"]}]}'
    headers = {"admin-key": server.admin_key, "Content-Type": "application/json; charset=utf-8", "a": "b"}
    with (
        count_calls(server, "http") as calls,
        Forwarder(calls.url) as forwarder,
        Proxy(forwarder.address, server.grpc_url, tmp_path) as proxy,
    ):
        for _ in range(3):
            assert proxy.http("POST", "/v2/models/clip_text_embedding/infer", body, headers)[0] == 200
        assert forwarder.connections == 1
    for seen in calls.seen:
        assert seen == {
            "host": "127.0.0.1",
            "content-type": "application/json",
            "content-length": str(len(body)),
            "accept-encoding": "identity",
            "a": "b",
        }


def test_grpc_headers_sent_twice_reach_the_server_once(server, tmp_path):
    headers = [
        *http2.call_headers(INFER),
        *((b"grpc-timeout", b"50S"), (b"grpc-timeout", b"z")),
        *((b"grpc-encoding", b"identity"), (b"grpc-encoding", b"gzip")),
        (b"triton-grpc-protocol-admin-key", b"a"),
    ]
    with count_calls(server, "grpc") as calls, Proxy(server.http_url, calls.url, tmp_path) as proxy:
        http2.call(proxy.grpc_url, headers)
    assert [set(seen) - {"user-agent"} for seen in calls.seen] == [set()]
