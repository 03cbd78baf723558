"""A real Prometheus with a real Triton and gateway: every query finds series, every alert has a real cause.

The shipped files are used with shorter times: scrapes every second, windows of 15 s, alerts after 1 s. Three
thresholds are lowered, see LOWERED_THRESHOLDS. The GPU figures are synthetic.
"""

import contextlib
import json
import math
import os
import re
import signal
import urllib.request

import pytest
import yaml

from tests.helpers.waiting import wait_until
from tests.system.docker.gpu_exporter import gpu_exporter
from tests.system.docker.monitored_load import MonitoredLoad
from tests.system.docker.prometheus_server import MONITORING, Prometheus, require_prometheus
from tritonclip_server.benchmarks.gateway_process import running
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions
from tritonclip_server.serving.release import ADMIN_HEADER

WINDOW = "15s"
LOWERED_THRESHOLDS = {
    "TritonclipQueueTimeHigh": ("> 1", "> 0.1"),
    "TritonclipSaturated": ("> 0.9", "> 0.3"),
    "TritonclipRestartLoop": (">= 3", ">= 1"),
}
ALERTS = {
    rule["alert"]
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
}
GPU_ALERTS = {"TritonclipGpuMemoryFull", "TritonclipGpuBusy"}
LOAD_ALERTS = {
    "TritonclipOverload",
    "TritonclipQueueTimeHigh",
    "TritonclipSaturated",
    "TritonclipCacheHitsLow",
    "TritonclipGatewayErrors",
}
FAULT_ALERTS = {"TritonclipErrors", "TritonclipGatewayNotReady"}
RESTART_ALERTS = {"TritonclipRestarted", "TritonclipRestartLoop"}
ABSENCE_ALERTS = {"TritonclipModelAbsent"}
SHUTDOWN_ALERTS = {"TritonclipServerDown", "TritonclipGatewayDown"}


def speed_up(rules):
    """Shorten the times of the rules, and lower the thresholds in LOWERED_THRESHOLDS."""
    for group in rules["groups"]:
        for rule in group["rules"]:
            old, new = LOWERED_THRESHOLDS.get(rule.get("alert"), ("", ""))
            assert not old or rule["expr"].count(old) == 1
            rule["expr"] = re.sub(r"\[\d+m\]", f"[{WINDOW}]", rule["expr"].replace(old, new))
            if "for" in rule:
                rule["for"] = "1s"
    return rules


def write_configuration(directory, server, gateway, gpu):
    """Write the shipped files for these targets. The GPU exporter is a separate target."""
    text = (MONITORING / "prometheus.yaml").read_text()
    for old, new in {"server:8002": server, "gateway:8080": gateway, " 5s": " 1s", " 15s": " 1s"}.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    config = yaml.safe_load(text)
    config["scrape_configs"].append({"job_name": "gpu", "static_configs": [{"targets": [gpu]}]})
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))
    for name in config["rule_files"]:
        rules = yaml.safe_load((MONITORING / name).read_text())
        (directory / name).write_text(yaml.safe_dump(speed_up(rules)))


class Scene:
    """Shared state of the tests: a server with a short queue budget, its gateway, and Prometheus."""

    def __init__(self, server, gateway, prometheus, gpu):
        self.server, self.gateway, self.prometheus, self.gpu = server, gateway, prometheus, gpu

    def panel_queries(self, server=".*"):
        """Yield title and query of every panel, for these servers."""
        for panel in self._dashboard()["panels"]:
            for target in panel.get("targets", ()):
                yield panel["title"], self._fill(target["expr"], server)

    def annotation_queries(self):
        """Yield name and query of every annotation."""
        for annotation in self._dashboard()["annotations"]["list"]:
            yield annotation["name"], self._fill(annotation["expr"], ".*")

    def _dashboard(self):
        return json.loads((MONITORING / "grafana" / "dashboards" / "tritonclip.json").read_text())

    def _fill(self, expr, server):
        for name, value in {"$__rate_interval": WINDOW, "$server": server, "$gateway": ".*"}.items():
            expr = expr.replace(name, value)
        assert "$" not in expr
        return expr

    def queries_without_values(self, queries):
        """Return the queries that find no series with a finite value."""
        return {
            (title, expr)
            for title, expr in queries
            if not any(math.isfinite(float(found["value"][1])) for found in self.prometheus.query(expr))
        }


@pytest.fixture(scope="module")
def scene(prepare, tmp_path_factory):
    require_prometheus()
    settings = ("--set", "admission.queue_budget_ms=600", "--set", "vision_encoder.compile=off")
    repository = prepare("scripts/demo/checkpoint", "--precision", "float32", *settings)
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, explicit=True)
    directory = tmp_path_factory.mktemp("prometheus")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedTriton(repository, options))
        gateway = stack.enter_context(running(server.grpc_url, "--attempts", "1"))
        gpu = stack.enter_context(gpu_exporter())
        write_configuration(directory, server.metrics_url, gateway.url.removeprefix("http://"), gpu)
        yield Scene(server, gateway, stack.enter_context(Prometheus(directory)), gpu)


def test_no_alert_fires_under_normal_load(scene):
    with MonitoredLoad(scene.server.grpc_url, scene.gateway.url) as load:
        wait_until(lambda: load.outcomes["answered"] > 50, lambda: str(load.outcomes))
        scene.prometheus.wait_for_alerts(GPU_ALERTS)
    assert scene.prometheus.alerts() == GPU_ALERTS


def test_overload_fills_every_panel_and_fires_the_load_alerts(scene):
    with MonitoredLoad(scene.server.grpc_url, scene.gateway.url, flood=40) as load:
        scene.prometheus.wait_for_alerts(LOAD_ALERTS, patience_s=60)
        assert not scene.queries_without_values(scene.panel_queries())
        empty = scene.queries_without_values(scene.panel_queries(scene.server.metrics_url))
        groups = scene.prometheus.ask("rules")["groups"]
    assert load.outcomes["overloaded"]
    assert {title for title, _ in empty} == {"GPU: utilization", "GPU: memory", "GPU: power"}
    assert empty == {
        query for query in scene.panel_queries(scene.server.metrics_url) if "nv_gpu_" in query[1]
    }
    rules = [rule for group in groups for rule in group["rules"]]
    assert all(rule["health"] == "ok" for rule in rules)
    recorded = [(rule["name"], rule["name"]) for rule in rules if rule["type"] == "recording"]
    assert len(recorded) > 10
    assert not scene.queries_without_values(recorded)


def test_killed_process_fires_the_fault_alerts(scene):
    (pid,) = (pid for pid, model in scene.server.stubs().items() if model == "vision_encoder")
    os.kill(pid, signal.SIGKILL)
    with MonitoredLoad(scene.server.grpc_url, scene.gateway.url):
        scene.prometheus.wait_for_alerts(FAULT_ALERTS)
    assert "TritonclipModelAbsent" not in scene.prometheus.alerts()


def test_restart_fires_its_alerts_and_is_annotated(scene):
    scene.server.kill()
    scene.server.start()
    scene.prometheus.wait_for_alerts(RESTART_ALERTS)
    assert not scene.queries_without_values(scene.annotation_queries())


def test_unloaded_model_fires_the_absence_alert(scene):
    request = urllib.request.Request(
        f"http://{scene.server.http_url}/v2/repository/models/similarity/unload",
        data=b"{}",
        headers={ADMIN_HEADER: scene.server.admin_key},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        assert reply.status == 200
    scene.prometheus.wait_for_alerts(ABSENCE_ALERTS)

    def absent():
        labels = [alert["labels"] for alert in scene.prometheus.ask("alerts")["alerts"]]
        return {one["model"] for one in labels if one["alertname"] == "TritonclipModelAbsent"}

    # The ensemble depends on the model, and may disappear one scrape earlier.
    wait_until(lambda: absent() == {"similarity", "clip_zero_shot"}, lambda: str(absent()))
    served = dict(scene.panel_queries())["Versions served"]
    assert "vision_encoder" in str(scene.prometheus.query(served))
    assert "similarity" not in str(scene.prometheus.query(served))


def test_stopped_server_and_gateway_fire_the_shutdown_alerts(scene):
    scene.server.stop(drain=False)
    scene.gateway.process.terminate()
    scene.prometheus.wait_for_alerts(SHUTDOWN_ALERTS)


def test_every_alert_is_covered():
    assert (
        GPU_ALERTS | LOAD_ALERTS | FAULT_ALERTS | RESTART_ALERTS | ABSENCE_ALERTS | SHUTDOWN_ALERTS == ALERTS
    )
