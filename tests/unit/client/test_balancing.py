"""One name with several addresses, as with a headless Service: balancing, and replaced servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.system.docker.name_server import NameServer
from tritonclip._settings import Settings
from tritonclip._transport.grpc import client_options
from tritonclip_server.serving.launcher import free_port

PATIENCE_S = 15
"""Less than gRPC's default of 30 s between name resolutions."""


class Live(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A server that counts its liveness requests."""

    def __init__(self) -> None:
        self.calls = 0

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls += 1
        return service_pb2.ServerLiveResponse(live=True)


@contextmanager
def listening(host: str, port: int) -> Iterator[Live]:
    service, server = Live(), grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    assert server.add_insecure_port(f"{host}:{port}") == port
    server.start()
    try:
        yield service
    finally:
        server.stop(None).wait()


@contextmanager
def client(names: NameServer, port: int) -> Iterator[triton.InferenceServerClient]:
    """Open a client with this package's options; the test's own name server resolves the name."""
    options = client_options(Settings.from_env(f"servers.test:{port}", environ={}))
    assert options["url"] == f"servers.test:{port}"  # gRPC resolves it, not the client once at the start
    with triton.InferenceServerClient(**options | {"url": names.target(port)}) as made:
        yield made


@pytest.fixture
def port() -> int:
    return free_port("127.0.0.1")


def test_calls_are_balanced_over_all_addresses_of_a_name(port):
    with listening("127.0.0.1", port) as one, listening("127.0.0.2", port) as other:
        with NameServer("127.0.0.1", "127.0.0.2") as names, client(names, port) as caller:
            until_answered(caller)
            end = time.monotonic() + PATIENCE_S
            while not (one.calls and other.calls):  # until both are connected
                assert time.monotonic() < end, "one server receives all calls"
                caller.is_server_live()
            before = one.calls, other.calls
            for _ in range(20):
                assert caller.is_server_live()
            assert (one.calls - before[0], other.calls - before[1]) == (10, 10)


def test_server_that_replaces_another_is_found_within_seconds(port):
    with NameServer("127.0.0.1") as names, client(names, port) as caller:
        with listening("127.0.0.1", port) as one:
            until_answered(caller)
            assert one.calls
        names.addresses = ["127.0.0.2"]
        with listening("127.0.0.2", port) as other:
            until_answered(caller)
            assert other.calls


def until_answered(caller: triton.InferenceServerClient) -> None:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            assert caller.is_server_live(client_timeout=5)
            return
        except InferenceServerException:
            assert time.monotonic() < end, "no server was found"
            time.sleep(0.1)
