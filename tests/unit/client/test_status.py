"""Questions about a server's state over all four transports, with local servers for gRPC and HTTP."""

from __future__ import annotations

import asyncio
import http.server
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.helpers.threads import in_thread
from tritonclip import AsyncClient, Client, ModelInfo, ModelNotReadyError
from tritonclip._calls import wire

PARAMETERS = {
    "checkpoint": "openai/clip",
    "revision": "",
    "sha256": "ab12",
    "random_weights": "false",
    "logit_scale": "100.0",
    "version": "3",
    "identity": "cd34",
}
STATISTICS: dict[str, Any] = {
    "name": "similarity",
    "version": "3",
    "inference_count": 6,
    "execution_count": 2,
    "inference_stats": {
        "success": {"count": 4, "ns": 8_000_000},
        "queue": {"count": 4, "ns": 2_000_000},
        "compute_infer": {"count": 4, "ns": 4_000_000},
    },
}


class State(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A gRPC server in a fixed state; `text_encoder` is not ready."""

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=request.name != wire.TEXT_EMBEDDING.name)

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        reply = service_pb2.ModelConfigResponse()
        for name, value in PARAMETERS.items():
            reply.config.parameters[name].string_value = value
        return reply

    def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        return json_format.ParseDict({"model_stats": [STATISTICS]}, service_pb2.ModelStatisticsResponse())


class Handler(http.server.BaseHTTPRequestHandler):
    """The same state over HTTP."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parameters = {name: {"string_value": value} for name, value in PARAMETERS.items()}
        body: dict[str, Any] = {}
        if self.path.endswith("/config"):
            body = {"parameters": parameters}
        if self.path.endswith("/stats"):
            body = {"model_stats": [STATISTICS]}
        content = json.dumps(body).encode() if body else b""
        unready = self.path.endswith("/ready") and wire.TEXT_EMBEDDING.name in self.path
        self.send_response(400 if unready else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    over_grpc = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(State(), over_grpc)
    port = over_grpc.add_insecure_port("127.0.0.1:0")
    over_grpc.start()
    with in_thread(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as over_http:
        yield {"grpc": f"grpc://127.0.0.1:{port}", "http": f"http://127.0.0.1:{over_http.server_port}"}
    over_grpc.stop(None).wait()


@pytest.fixture(params=["grpc", "http"])
def url(request: pytest.FixtureRequest, urls: dict[str, str]) -> str:
    return urls[request.param]


@pytest.fixture(params=[Client, AsyncClient])
def ask(request: pytest.FixtureRequest, url: str) -> Callable[[str], Any]:
    """A function that calls a method of the client under test."""

    async def ask_async(method: str) -> Any:
        async with AsyncClient(url) as client:
            return await getattr(client, method)()

    def ask_client(method: str) -> Any:
        if request.param is AsyncClient:
            return asyncio.run(ask_async(method))
        with Client(url) as client:
            return getattr(client, method)()

    return ask_client


def test_health_names_the_model_that_is_not_ready(ask: Callable[[str], Any]) -> None:
    health = ask("health")
    assert (health.live, health.ready, health.ok) == (True, True, False)
    assert [name for name, ready in health.models.items() if not ready] == ["clip_text_embedding"]


def test_models_are_described_by_their_parameters(ask: Callable[[str], Any]) -> None:
    infos = ask("models")
    assert [info.name for info in infos] == [model.name for model in wire.PUBLIC_MODELS]
    assert infos[0] == ModelInfo(
        name="clip_zero_shot",
        checkpoint="openai/clip",
        revision="",
        sha256="ab12",
        random_weights=False,
        logit_scale=100.0,
        version="3",
        identity="cd34",
    )


def test_model_of_an_older_release_has_no_identity(
    ask: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(PARAMETERS, "identity")
    assert {info.identity for info in ask("models")} == {""}


def test_statistics_are_means_in_milliseconds(ask: Callable[[str], Any]) -> None:
    (found,) = ask("statistics")
    assert (found.name, found.version, found.requests, found.failures) == ("similarity", "3", 4, 0)
    assert (found.rows, found.executions, found.mean_batch) == (6, 2, 3.0)
    assert (found.mean_ms, found.queue_ms, found.compute_ms) == (2.0, 0.5, 1.0)


def test_missing_parameter_raises_model_not_ready(
    ask: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(PARAMETERS, "sha256")
    with pytest.raises(ModelNotReadyError, match="no parameter 'sha256'"):
        ask("models")
