"""Probes, paths and variables of the Kubernetes manifests on a running server and gateway.

`test_monitoring_live.py` runs the probe of a server with a dead model.
"""

from __future__ import annotations

import re
import socket

from tests.helpers.gateway import Gateway
from tests.helpers.servers import ROOT
from tests.system.docker.kubernetes_manifests import overlay
from tests.system.docker.pods import EXIT_OK, EXIT_UNAVAILABLE, PROBES, run_pod_gateway, run_probe


def test_probe_of_a_healthy_server_succeeds(server):
    assert run_probe(server.grpc_url) == EXIT_OK


def test_probe_fails_without_a_server():
    assert run_probe("localhost:1") == EXIT_UNAVAILABLE


def test_probe_of_a_stuck_server_fails():
    """The server accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as stuck:
        assert run_probe(f"127.0.0.1:{stuck.getsockname()[1]}", timeout_s=0.5) == EXIT_UNAVAILABLE


def test_variables_are_read_by_the_code():
    code = [*(ROOT / "scripts/tritonclip_server").rglob("*.py"), *(ROOT / "model_repository").rglob("*.py")]
    text = "\n".join(path.read_text("utf-8") for path in code)
    names = [one["name"] for one in overlay("gpu").container("tritonclip-server")["env"]]
    assert names == ["TRITONCLIP_ADMIN_KEY", "TRITONCLIP_CACHE_DIR", "HOME"]
    for name in names[:2]:
        assert f'"{name}"' in text


def probe_statuses(gateway: Gateway) -> dict[str, int]:
    """Return the HTTP status of each probe."""
    container = overlay("gpu").container("tritonclip-gateway")
    (port,) = container["ports"]
    statuses = {}
    for probe in PROBES:
        request = container[probe]["httpGet"]
        assert request["port"] == port["name"]
        statuses[probe] = gateway.request("GET", request["path"], headers={}).status
    return statuses


def test_probes_and_metrics_of_a_gateway_succeed(pod_gateway):
    assert probe_statuses(pod_gateway) == dict.fromkeys(PROBES, 200)
    assert pod_gateway.post("/v1/embeddings", input="a red circle").status == 200
    assert pod_gateway.request("GET", "/v1/models", headers={}).status == 401
    (endpoint,) = overlay("replicas").get("ServiceMonitor", "tritonclip-gateway")["spec"]["endpoints"]
    reply = pod_gateway.request("GET", endpoint["path"], headers={})
    assert reply.status == 200
    assert re.search(r'^tritonclip_gateway_requests_total\{.*status="200"', reply.data.decode(), re.M)


def test_gateway_without_servers_is_not_started_but_alive(tmp_path):
    with run_pod_gateway("localhost:1", tmp_path) as gateway:
        assert probe_statuses(gateway) == {"startupProbe": 503, "readinessProbe": 200, "livenessProbe": 200}
