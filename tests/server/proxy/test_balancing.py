"""Two addresses behind the proxy of docker/nginx share the load; losing one loses no request."""

import contextlib
import threading

from tests.helpers.calls import together
from tests.helpers.network import Forwarder, count_calls
from tests.helpers.nginx_proxy import PATIENCE_S, UNLIMITED, Proxy, balanced, require_nginx
from tests.helpers.pictures import encode, noise
from tritonclip import Client

CALLERS = 8
CALLS = 10


def test_requests_of_one_grpc_connection_are_balanced(server, tmp_path):
    require_nginx()
    with count_calls(server, "grpc") as one, count_calls(server, "grpc") as other:
        addresses = balanced(one.url, other.url)
        with (
            Proxy(server.http_url, addresses, tmp_path, **UNLIMITED) as proxy,
            Client(proxy.grpc_url, timeout_s=PATIENCE_S, attempts=1) as client,
        ):
            answers = together(CALLERS, lambda _: [client.embed_texts("a") for _ in range(CALLS)])
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    assert len(one.seen) == len(other.seen) == CALLERS * CALLS / 2


def test_losing_an_address_under_load_loses_no_request(server, tmp_path):
    require_nginx()
    image = encode(noise(80, 60), "PNG")
    done, closing = [], threading.Event()
    with contextlib.ExitStack() as lost:
        forwarder = lost.enter_context(Forwarder(server.grpc_url))
        addresses = balanced(server.grpc_url, forwarder.address)

        def call(index):
            if index == 0:
                closing.wait()
                assert forwarder.connections
                lost.close()  # closes all connections and the port
                return
            with Client(proxy.grpc_url, timeout_s=PATIENCE_S) as client:
                for _ in range(CALLS):
                    done.append(client.classify(image, ["a", "b"]))
                    if len(done) > CALLERS * CALLS // 4:
                        closing.set()

        with Proxy(server.http_url, addresses, tmp_path, **UNLIMITED) as proxy:
            assert together(CALLERS + 1, call) == [None] * (CALLERS + 1)
    assert len(done) == CALLERS * CALLS
