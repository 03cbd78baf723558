"""The URL of another port than the protocol's: of Triton's other protocol, and of the gateway."""

import asyncio

import pytest

from tests.helpers.gateway import run_gateway
from tritonclip import AsyncClient, Client, ModelNotReadyError, ServerUnavailableError


@pytest.fixture(scope="module")
def gateway_address(server):
    with run_gateway(server.grpc_url) as gateway:
        yield gateway.url.removeprefix("http://")


async def classify_async(url):
    async with AsyncClient(url, timeout_s=30) as client:
        await client.classify(b"x", ["a", "b"])


def classify(url):
    with Client(url, timeout_s=30) as client:
        client.classify(b"x", ["a", "b"])


@pytest.mark.parametrize(
    "run", [classify, lambda url: asyncio.run(classify_async(url))], ids=["sync", "async"]
)
def test_wrong_port_names_the_url_to_try(server, gateway_address, run):
    with pytest.raises(ServerUnavailableError, match=rf"give http://{server.http_url}, or grpc://"):
        run(f"grpc://{server.http_url}")
    with pytest.raises(ServerUnavailableError, match=rf"not an HTTP port.* give grpc://{server.grpc_url}"):
        run(f"http://{server.grpc_url}")
    with pytest.raises(ServerUnavailableError, match=r"such as the gateway.*give grpc://127\.0\.0\.1:8001"):
        run(f"grpc://{gateway_address}")
    with pytest.raises(
        ModelNotReadyError, match=r"not Triton; if it is the gateway.* grpc://127\.0\.0\.1:8001"
    ):
        run(f"http://{gateway_address}")
    with pytest.raises(ServerUnavailableError, match=rf"does not use TLS; give grpc://{server.grpc_url}"):
        run(f"grpcs://{server.grpc_url}")


def test_health_says_why_a_gateway_is_not_live(gateway_address):
    with Client(f"http://{gateway_address}", timeout_s=30) as client:
        health = client.health()
    assert not health.live
    assert "not Triton; if it is the gateway" in health.reason
