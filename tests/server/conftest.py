"""The synchronous and the asynchronous client over gRPC and HTTP, so that one test body covers all four."""

import asyncio
import inspect

import pytest

from tritonclip import AsyncClient, Client


class BlockingClient:
    """An AsyncClient whose calls block until they are done, as those of a Client do."""

    def __init__(self, client, loop):
        self._client, self._loop = client, loop

    def __getattr__(self, name):
        attribute = getattr(self._client, name)
        if not callable(attribute):
            return attribute
        return lambda *args, **options: self._wait(attribute(*args, **options))

    def _wait(self, result):
        if hasattr(result, "__aiter__"):
            return self._each(result)
        return self._loop.run_until_complete(result) if inspect.isawaitable(result) else result

    def _each(self, results):
        try:
            while True:
                yield self._loop.run_until_complete(anext(results))
        except StopAsyncIteration:
            pass
        finally:
            self._loop.run_until_complete(results.aclose())


@pytest.fixture(params=["grpc", "http"])
def protocol(request):
    return request.param


@pytest.fixture
def url(server, protocol):
    return server.grpc_url if protocol == "grpc" else server.http_url


@pytest.fixture(params=[Client, AsyncClient])
def make(request, protocol):
    """Return a function that makes clients of the kind under test; all are closed after the test."""
    loop, made = asyncio.new_event_loop(), []

    def _make(url, **options):
        if request.param is Client:
            client = Client(url, protocol=protocol, **options)
        else:

            async def on_loop():
                return AsyncClient(url, protocol=protocol, **options)

            client = BlockingClient(loop.run_until_complete(on_loop()), loop)
        made.append(client)
        return client

    yield _make
    for client in made:
        client.close()
    if request.param is AsyncClient:
        # aiohttp and grpc.aio finish closing in a later iteration of the loop.
        loop.run_until_complete(asyncio.sleep(0.05))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture
def client(make, url):
    return make(url, timeout_s=60)
