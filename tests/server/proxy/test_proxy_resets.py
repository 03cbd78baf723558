"""Streams that are opened and reset without pause: the proxy of docker/nginx keeps them from the server."""

import contextlib
import socket
import time

import pytest

from tests.helpers import http2
from tests.helpers.calls import together
from tests.helpers.network import Forwarder
from tests.helpers.nginx_proxy import PATIENCE_S, Proxy, defaults, require_nginx
from tritonclip import Client

CALL = http2.call_headers(b"/inference.GRPCInferenceService/ServerLive")
STREAMS = 900
"""Per connection; nginx closes one after 1,000 requests."""
CONNECTIONS = 10
CALLS = 20


@pytest.fixture(autouse=True)
def nginx():
    require_nginx()


def open_and_reset(address):
    """Open and reset many streams in one connection, and wait until the proxy has read them or closes it."""
    with http2.connect(address) as connection, contextlib.suppress(ConnectionError):
        for stream in range(1, 2 * STREAMS + 1, 2):
            reset = http2.frame(http2.RST_STREAM, 0, stream, bytes((0, 0, 0, 8)))
            connection.sendall(http2.open_stream(stream, CALL) + reset)
        connection.shutdown(socket.SHUT_WR)
        for _ in http2.frames(connection):
            pass


def test_reset_streams_above_the_rate_limit_reach_neither_the_server_nor_the_log(server, tmp_path):
    limits = {name: int(defaults()[name]) for name in ("REQUESTS_BURST", "REQUESTS_PER_SECOND")}

    def call(index):
        if index == 0:
            for _ in range(CONNECTIONS):
                open_and_reset(proxy.grpc_url)
            return None
        with Client(server.grpc_url, timeout_s=PATIENCE_S, attempts=1) as client:  # not limited
            return [client.embed_texts("a").shape for _ in range(CALLS)]

    with (
        Forwarder(server.grpc_url) as forwarder,
        Proxy(server.http_url, forwarder.address, tmp_path) as proxy,
    ):
        began = time.monotonic()
        answers = together(3, call)
        allowed = limits["REQUESTS_BURST"] + limits["REQUESTS_PER_SECOND"] * (time.monotonic() - began)
        assert answers == [None, *[[(512,)] * CALLS] * 2]
        assert forwarder.connections <= allowed + 1
        assert (tmp_path / "error.log").stat().st_size < STREAMS
