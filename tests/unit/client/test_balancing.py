"""One name with several addresses, as with a headless Service: balancing, and replaced servers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.helpers.name_server import NameServer
from tests.helpers.waiting import wait_until
from tritonclip._settings import Settings
from tritonclip._transport.grpc import client_options
from tritonclip_server.serving.launcher import free_port

RESOLUTIONS_APART = "grpc.dns_min_time_between_resolutions_ms"


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


def options_of_the_client(port: int) -> dict[str, Any]:
    return client_options(Settings.from_env(f"servers.test:{port}", environ={}))


@contextmanager
def client(names: NameServer, port: int) -> Iterator[triton.InferenceServerClient]:
    """Open a client with this package's options.

    The test's own name server resolves the name, and again as soon as a connection is lost.
    """
    options = options_of_the_client(port)
    assert options["url"] == f"servers.test:{port}"  # gRPC resolves it, not the client once at the start
    options["channel_args"] = [
        (name, 10 if name == RESOLUTIONS_APART else value) for name, value in options["channel_args"]
    ]
    with triton.InferenceServerClient(**options | {"url": names.target(port)}) as made:
        yield made


@pytest.fixture
def port() -> int:
    return free_port("127.0.0.1")


def test_calls_are_balanced_over_all_addresses_of_a_name(port):
    with listening("127.0.0.1", port) as one, listening("127.0.0.2", port) as other:
        with NameServer("127.0.0.1", "127.0.0.2") as names, client(names, port) as caller:
            until_answered(caller)
            wait_until(
                lambda: caller.is_server_live() and one.calls and other.calls,  # until both are connected
                "one server receives all calls",
                timeout_s=60,
            )
            before = one.calls, other.calls
            for _ in range(20):
                assert caller.is_server_live()
            assert (one.calls - before[0], other.calls - before[1]) == (10, 10)


def test_server_that_replaces_another_is_found(port):
    with NameServer("127.0.0.1") as names, client(names, port) as caller:
        with listening("127.0.0.1", port) as one:
            until_answered(caller)
            assert one.calls
        names.addresses = ["127.0.0.2"]
        with listening("127.0.0.2", port) as other:
            until_answered(caller)
            assert other.calls


def test_lost_connection_resolves_the_name_again_after_two_seconds(port):
    (apart_ms,) = [
        value for name, value in options_of_the_client(port)["channel_args"] if name == RESOLUTIONS_APART
    ]
    assert apart_ms == 2000  # gRPC's default is 30 s, within which a replaced server is not found


def until_answered(caller: triton.InferenceServerClient) -> None:
    def answers() -> bool:
        try:
            return caller.is_server_live(client_timeout=5)
        except InferenceServerException:
            return False

    wait_until(answers, "no server was found", timeout_s=60, interval_s=0.05)
