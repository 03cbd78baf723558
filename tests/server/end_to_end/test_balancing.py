"""Two servers behind the proxy of docker/nginx: equal shares, and one killed without a lost request."""

import threading
import time

import pytest

from tests.helpers.calls import metric, together
from tests.helpers.nginx_proxy import PATIENCE_S, Proxy, require_nginx
from tests.helpers.pictures import encode, noise
from tritonclip import Client
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

ANY_PORT = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
FURTHER = " max_fails=1 fail_timeout=5s; server "
"""Between two addresses in the place of one: what a name with two addresses is to nginx."""
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
        FURTHER.join(addresses)
        for addresses in zip(*((one.http_url, one.grpc_url) for one in servers), strict=True)
    )
    values = {"CONNECTIONS_PER_ADDRESS": "1000", "REQUESTS_PER_SECOND": "10000", "REQUESTS_BURST": "10000"}
    with Proxy(http, grpc, tmp_path_factory.mktemp("nginx"), **values) as running:
        yield running


def answered(server):
    """The requests that a server has answered, once their number stands still: it counts after it answers."""
    before, now = -1.0, metric(server, "nv_inference_request_success", model="clip_zero_shot")
    while now != before:
        time.sleep(0.2)
        before, now = now, metric(server, "nv_inference_request_success", model="clip_zero_shot")
    return now


def test_one_connection_of_grpc_is_shared_out_by_request(servers, proxy):
    before = [answered(server) for server in servers]
    with Client(proxy.grpc_url, timeout_s=PATIENCE_S, attempts=1) as client:
        answers = together(CALLERS, lambda _: [client.classify(IMAGE, ["a", "b"]) for _ in range(CALLS)])
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    shares = [answered(server) - was for server, was in zip(servers, before, strict=True)]
    assert sum(shares) == CALLERS * CALLS
    assert all(share == pytest.approx(sum(shares) / 2, rel=0.1) for share in shares)


def test_a_server_killed_under_load_costs_no_caller_its_answer(servers, proxy):
    done, killed = [], threading.Event()

    def call(index):
        if index == 0:  # once there is load
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
    assert servers[1].exit_code is None  # it is gone, and not ended by itself
