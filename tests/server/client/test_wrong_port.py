"""The URL of another port than the protocol's: of Triton's other protocol, the gateway, or another server."""

import asyncio
import http.server
import threading

import pytest

from tests.helpers.gateway import run_gateway
from tritonclip import AsyncClient, Client, ModelNotReadyError, ServerUnavailableError


@pytest.fixture(scope="module")
def gateway_address(server):
    with run_gateway(server.grpc_url) as gateway:
        yield gateway.url.removeprefix("http://")


class NothingThere(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_error(404)

    def do_POST(self):
        self.do_GET()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def other_address():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), NothingThere) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


async def classify_async(url):
    async with AsyncClient(url, timeout_s=30) as client:
        await client.classify(b"x", ["a", "b"])


def classify(url):
    with Client(url, timeout_s=30) as client:
        client.classify(b"x", ["a", "b"])


@pytest.mark.parametrize(
    "run", [classify, lambda url: asyncio.run(classify_async(url))], ids=["sync", "async"]
)
def test_wrong_port_names_the_url_to_try(server, gateway_address, other_address, run):
    with pytest.raises(ServerUnavailableError, match=rf"give http://{server.http_url}, or grpc://"):
        run(f"grpc://{server.http_url}")
    with pytest.raises(ServerUnavailableError, match=rf"not an HTTP port.* give grpc://{server.grpc_url}"):
        run(f"http://{server.grpc_url}")
    with pytest.raises(ServerUnavailableError, match=r"such as the gateway.*give grpc://127\.0\.0\.1:8001"):
        run(f"grpc://{gateway_address}")
    with pytest.raises(
        ModelNotReadyError, match=r"neither Triton nor the gateway.* grpc://127\.0\.0\.1:8001"
    ):
        run(f"http://{other_address}")
    with pytest.raises(ServerUnavailableError, match=rf"does not use TLS; give grpc://{server.grpc_url}"):
        run(f"grpcs://{server.grpc_url}")


def test_health_says_why_another_server_is_not_live(other_address):
    with Client(f"http://{other_address}", timeout_s=30) as client:
        health = client.health()
    assert not health.live
    assert "neither Triton nor the gateway" in health.reason
