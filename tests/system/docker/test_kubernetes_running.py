"""Probes, paths and variables of the Kubernetes manifests on a running server and gateway."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.calls import metric
from tests.helpers.gateway import KEY, KEY_LINE
from tests.helpers.servers import ROOT, Prepare
from tests.system.docker.kubernetes_manifests import Manifest, overlay
from tritonclip import Client, ServerUnavailableError
from tritonclip_server.benchmarks.gateway_process import GatewayProcess, running
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

IMAGES = sorted((ROOT / "scripts/demo/images").glob("*.*g"))
LABELS = ["a red circle", "a blue square"]
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
EXIT_OK, EXIT_UNAVAILABLE = 0, 3
BUDGET_MS = 2_000
CALLERS = 32


def run_probe(server: str, probe: str = "readinessProbe") -> int:
    """Run the command of a probe against a server, as the kubelet does, and return its exit code."""
    program, *arguments = overlay("gpu").container("tritonclip-server")[probe]["exec"]["command"]
    arguments[arguments.index("localhost:8001")] = server
    timeout_s = overlay("gpu").container("tritonclip-server")[probe]["timeoutSeconds"]
    command = [str(Path(sys.executable).parent / program), *arguments]
    return subprocess.run(command, capture_output=True, timeout=timeout_s, check=False).returncode


@pytest.fixture(scope="module")
def breakable(prepare: Prepare) -> Iterator[EmbeddedTriton]:
    """Start a server with a short queue budget, which the tests may break."""
    settings = ("--set", "vision_encoder.compile=off", "--set", f"admission.queue_budget_ms={BUDGET_MS}")
    repository = prepare("scripts/demo/checkpoint", "--precision", "float32", *settings)
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    with EmbeddedTriton(repository, options) as server:
        yield server


@pytest.mark.parametrize("probe", PROBES)
def test_probes_of_a_healthy_server_succeed(server, probe):
    assert run_probe(server.grpc_url, probe) == EXIT_OK


def test_probe_fails_without_a_server():
    assert run_probe("localhost:1") == EXIT_UNAVAILABLE


@contextmanager
def flood(server: EmbeddedTriton) -> Iterator[list[ServerUnavailableError]]:
    """Overload the server, and yield the list of rejections."""
    rejected: list[ServerUnavailableError] = []
    end = threading.Event()

    def call() -> None:
        with Client(server.grpc_url, attempts=1, timeout_s=60) as client:
            while not end.is_set():
                try:
                    client.classify(IMAGES * 8, LABELS)
                except ServerUnavailableError as error:
                    rejected.append(error)

    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield rejected
    finally:
        end.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
def test_overloaded_server_stays_ready_and_alive(breakable):
    def overloaded() -> float:
        return metric(breakable, "tritonclip_requests_refused_total", reason="overload")

    with flood(breakable) as rejected:
        while not rejected:
            threading.Event().wait(0.1)
        before = overloaded()
        assert [run_probe(breakable.grpc_url, probe) for probe in PROBES] == [EXIT_OK] * 3
        assert overloaded() > before


@pytest.mark.slow
def test_stuck_server_fails_its_probes(breakable):
    os.kill(breakable.pid, signal.SIGSTOP)
    try:
        assert run_probe(breakable.grpc_url) == EXIT_UNAVAILABLE
    finally:
        os.kill(breakable.pid, signal.SIGCONT)
    assert run_probe(breakable.grpc_url) == EXIT_OK


def test_server_with_a_dead_model_fails_its_probes(breakable):
    (pid,) = (pid for pid, model in breakable.stubs().items() if model == "similarity")
    os.kill(pid, signal.SIGKILL)
    assert run_probe(breakable.grpc_url) == EXIT_UNAVAILABLE


def test_variables_are_read_by_the_code():
    code = [*(ROOT / "scripts/tritonclip_server").rglob("*.py"), *(ROOT / "model_repository").rglob("*.py")]
    text = "\n".join(path.read_text("utf-8") for path in code)
    names = [one["name"] for one in overlay("gpu").container("tritonclip-server")["env"]]
    assert names == ["TRITONCLIP_ADMIN_KEY", "TRITONCLIP_CACHE_DIR", "HOME"]
    for name in names[:2]:
        assert f'"{name}"' in text


def test_service_monitor_uses_the_metrics_path_of_the_server(server):
    (endpoint,) = monitor("tritonclip-server")["spec"]["endpoints"]
    assert endpoint["path"] == "/metrics"  # used by EmbeddedTriton.metrics
    assert "nv_inference_request_success" in server.metrics()


def monitor(name: str) -> Manifest:
    return overlay("replicas").get("ServiceMonitor", name)


@contextmanager
def pod_gateway(server: str, directory: Path) -> Iterator[GatewayProcess]:
    """Run a gateway with the arguments of the manifests, except for server name and path of the keys."""
    keys = directory / "keys"
    keys.write_text(KEY_LINE, "utf-8")
    url, *arguments = overlay("gpu").container("tritonclip-gateway")["args"]
    assert url == "--url=tritonclip-server-headless:8001"
    (mount,) = (
        one for one in overlay("gpu").container("tritonclip-gateway")["volumeMounts"] if one["name"] == "keys"
    )
    arguments = [one.replace(mount["mountPath"], str(directory)) for one in arguments]
    assert f"--keys-file={keys}" in arguments
    with running(server, *arguments, key=KEY) as gateway:
        yield gateway


def probe_statuses(gateway: GatewayProcess) -> dict[str, int]:
    """Return the HTTP status of each probe."""
    container = overlay("gpu").container("tritonclip-gateway")
    (port,) = container["ports"]
    statuses = {}
    for probe in PROBES:
        request = container[probe]["httpGet"]
        assert request["port"] == port["name"]
        statuses[probe] = gateway.request("GET", request["path"], headers={}).status
    return statuses


def test_probes_and_metrics_of_a_gateway_succeed(server, tmp_path):
    with pod_gateway(server.grpc_url, tmp_path) as gateway:
        assert probe_statuses(gateway) == dict.fromkeys(PROBES, 200)
        assert gateway.post("/v1/embeddings", input="a red circle").status == 200
        assert gateway.request("GET", "/v1/models", headers={}).status == 401
        (endpoint,) = monitor("tritonclip-gateway")["spec"]["endpoints"]
        reply = gateway.request("GET", endpoint["path"], headers={})
        assert reply.status == 200
        assert re.search(r'^tritonclip_gateway_requests_total\{.*status="200"', reply.data.decode(), re.M)


def test_gateway_without_servers_is_not_started_but_alive(tmp_path):
    with pod_gateway("localhost:1", tmp_path) as gateway:
        assert probe_statuses(gateway) == {"startupProbe": 503, "readinessProbe": 200, "livenessProbe": 200}
