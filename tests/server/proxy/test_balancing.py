"""Two servers behind the proxy of docker/nginx share the load; killing one loses no request."""

import threading
import time

import pytest

from tests.helpers.calls import metric, together
from tests.helpers.nginx_proxy import PATIENCE_S, Proxy, require_nginx
from tests.helpers.pictures import encode, noise
from tritonclip import Client
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

ANY_PORT = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
ADDRESS_SEPARATOR = " max_fails=1 fail_timeout=5s; server "
"""Joins two addresses in the template, which then behave like a name with two addresses."""
CALLERS = 16
CALLS = 25
IMAGE = encode(noise(80, 60), "PNG")


@pytest.fixture(scope="module")
def servers(demo_repository):
    require_nginx()
    with EmbeddedTriton(demo_repository, ANY_PORT) as one, EmbeddedTriton(demo_repository, ANY_PORT) as other:
        yield one, other


@pytest.fixture(scope="module")
def proxy(servers, tmp_path_factory):
    http, grpc = (
        ADDRESS_SEPARATOR.join(addresses)
        for addresses in zip(*((one.http_url, one.grpc_url) for one in servers), strict=True)
    )
    values = {"CONNECTIONS_PER_ADDRESS": "1000", "REQUESTS_PER_SECOND": "10000", "REQUESTS_BURST": "10000"}
    with Proxy(http, grpc, tmp_path_factory.mktemp("nginx"), **values) as running:
        yield running


def answered(server):
    """Return the number of answered requests once it is stable; Triton counts after it responds."""
    before, now = -1.0, metric(server, "nv_inference_request_success", model="clip_zero_shot")
    while now != before:
        time.sleep(0.2)
        before, now = now, metric(server, "nv_inference_request_success", model="clip_zero_shot")
    return now


def test_requests_of_one_grpc_connection_are_balanced(servers, proxy):
    before = [answered(server) for server in servers]
    with Client(proxy.grpc_url, timeout_s=PATIENCE_S, attempts=1) as client:
        answers = together(CALLERS, lambda _: [client.classify(IMAGE, ["a", "b"]) for _ in range(CALLS)])
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    shares = [answered(server) - was for server, was in zip(servers, before, strict=True)]
    assert sum(shares) == CALLERS * CALLS
    assert all(share == pytest.approx(sum(shares) / 2, rel=0.1) for share in shares)


def test_killing_a_server_under_load_loses_no_request(servers, proxy):
    done, killed = [], threading.Event()

    def call(index):
        if index == 0:  # wait for load
            killed.wait(PATIENCE_S)
            servers[1].kill()
            return []
        with Client(proxy.grpc_url, timeout_s=PATIENCE_S) as client:
            for _ in range(CALLS):
                done.append(client.classify(IMAGE, ["a", "b"]))
                if len(done) > CALLERS * CALLS // 4:
                    killed.set()
        return []

    before = answered(servers[0])
    answers = together(CALLERS + 1, call)
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    assert len(done) == CALLERS * CALLS
    assert answered(servers[0]) - before > CALLERS * CALLS / 2
    assert servers[1].exit_code is None  # killed, not exited on its own
