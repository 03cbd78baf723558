"""Two servers behind the proxy of docker/nginx; killing one loses no request."""

import threading

from tests.helpers.calls import together
from tests.helpers.nginx_proxy import UNLIMITED, Proxy, balanced, require_nginx
from tests.helpers.pictures import encode, noise
from tritonclip import Client

CALLERS = 8
CALLS = 20


def test_killing_a_server_under_load_loses_no_request(servers, demo_repository, tmp_path):
    require_nginx()
    image = encode(noise(80, 60), "PNG")
    with (
        servers.run(demo_repository, "survives the other one") as survivor,
        servers.run(demo_repository, "killed behind a proxy") as victim,
    ):
        http, grpc = (
            balanced(*addresses)
            for addresses in ((survivor.http_url, victim.http_url), (survivor.grpc_url, victim.grpc_url))
        )
        done, killing = [], threading.Event()

        def call(index):
            if index == 0:
                killing.wait()
                victim.kill()
                return
            with Client(proxy.grpc_url, timeout_s=120) as client:
                for _ in range(CALLS):
                    done.append(client.classify(image, ["a", "b"]))
                    if len(done) > CALLERS * CALLS // 4:
                        killing.set()

        with Proxy(http, grpc, tmp_path, **UNLIMITED) as proxy:
            assert together(CALLERS + 1, call) == [None] * (CALLERS + 1)
        assert len(done) == CALLERS * CALLS
