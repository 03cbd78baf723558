"""A real Prometheus on a real Triton and gateway: every query finds series, every alert has a real cause.

The shipped files are used with shorter times: scrapes each second, windows of 15 s, alerts after 1 s. Three
thresholds are lowered too, as `LOWERED` says. The figures of a GPU are made up.
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
from tests.system.docker.monitored_load import Load
from tests.system.docker.prometheus_server import MONITORING, Prometheus, require_prometheus
from tritonclip_server.benchmarks.gateway_process import running
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions
from tritonclip_server.serving.release import ADMIN_HEADER

WINDOW = "15s"
LOWERED = {
    "TritonclipQueueTimeHigh": ("> 1", "> 0.1"),
    "TritonclipSaturated": ("> 0.9", "> 0.3"),
    "TritonclipRestartLoop": (">= 3", ">= 1"),
}
ALERTS = {
    rule["alert"]
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
}
OF_GPU = {"TritonclipGpuMemoryFull", "TritonclipGpuBusy"}
OF_LOAD = {
    "TritonclipOverload",
    "TritonclipQueueTimeHigh",
    "TritonclipSaturated",
    "TritonclipCacheHitsLow",
    "TritonclipGatewayErrors",
}
OF_FAULTS = {"TritonclipErrors", "TritonclipGatewayNotReady"}
OF_RESTARTS = {"TritonclipRestarted", "TritonclipRestartLoop"}
OF_ABSENCE = {"TritonclipModelAbsent"}
OF_THE_END = {"TritonclipServerDown", "TritonclipGatewayDown"}


def quick(rules):
    """The rules with short times, and lower thresholds where `LOWERED` has some."""
    for group in rules["groups"]:
        for rule in group["rules"]:
            old, new = LOWERED.get(rule.get("alert"), ("", ""))
            assert not old or rule["expr"].count(old) == 1
            rule["expr"] = re.sub(r"\[\d+m\]", f"[{WINDOW}]", rule["expr"].replace(old, new))
            if "for" in rule:
                rule["for"] = "1s"
    return rules


def write_quick_files(directory, server, gateway, gpu):
    """The shipped files for these targets. The GPU is a target of its own: no server here has one."""
    text = (MONITORING / "prometheus.yaml").read_text()
    for old, new in {"server:8002": server, "gateway:8080": gateway, " 5s": " 1s", " 15s": " 1s"}.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    config = yaml.safe_load(text)
    config["scrape_configs"].append({"job_name": "gpu", "static_configs": [{"targets": [gpu]}]})
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(config))
    for name in config["rule_files"]:
        rules = yaml.safe_load((MONITORING / name).read_text())
        (directory / name).write_text(yaml.safe_dump(quick(rules)))


class Scene:
    """What the tests share: a server on which hardly anything may wait, its gateway, a Prometheus."""

    def __init__(self, server, gateway, prometheus, gpu):
        self.server, self.gateway, self.prometheus, self.gpu = server, gateway, prometheus, gpu

    def panel_queries(self, server=".*"):
        """Every query of every panel with its title, asked of these servers."""
        for panel in self._dashboard()["panels"]:
            for target in panel.get("targets", ()):
                yield panel["title"], self._filled_in(target["expr"], server)

    def mark_queries(self):
        """Every query of the marks over all panels, with its name."""
        for mark in self._dashboard()["annotations"]["list"]:
            yield mark["name"], self._filled_in(mark["expr"], ".*")

    def _dashboard(self):
        return json.loads((MONITORING / "grafana" / "dashboards" / "tritonclip.json").read_text())

    def _filled_in(self, expr, server):
        for name, value in {"$__rate_interval": WINDOW, "$server": server, "$gateway": ".*"}.items():
            expr = expr.replace(name, value)
        assert "$" not in expr
        return expr

    def without_figures(self, queries):
        """Those that find no series with a finite value."""
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
        write_quick_files(directory, server.metrics_url, gateway.url.removeprefix("http://"), gpu)
        yield Scene(server, gateway, stack.enter_context(Prometheus(directory)), gpu)


def test_no_alert_fires_while_all_is_well(scene):
    with Load(scene.server.grpc_url, scene.gateway.url) as load:
        wait_until(lambda: load.outcomes["answered"] > 50, lambda: str(load.outcomes))
        scene.prometheus.wait_for_alerts(OF_GPU)
    assert scene.prometheus.alerts() == OF_GPU


def test_a_flood_feeds_every_panel_and_fires_the_alerts_of_load(scene):
    with Load(scene.server.grpc_url, scene.gateway.url, flood=40) as load:
        scene.prometheus.wait_for_alerts(OF_LOAD, patience_s=60)
        assert not scene.without_figures(scene.panel_queries())
        empty = scene.without_figures(scene.panel_queries(scene.server.metrics_url))
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
    assert not scene.without_figures(recorded)


def test_a_killed_process_fires_the_alerts_of_errors(scene):
    (pid,) = (pid for pid, model in scene.server.stubs().items() if model == "vision_encoder")
    os.kill(pid, signal.SIGKILL)
    with Load(scene.server.grpc_url, scene.gateway.url):
        scene.prometheus.wait_for_alerts(OF_FAULTS)
    assert "TritonclipModelAbsent" not in scene.prometheus.alerts()


def test_a_restart_fires_its_alerts_and_is_marked(scene):
    scene.server.kill()
    scene.server.start()
    scene.prometheus.wait_for_alerts(OF_RESTARTS)
    assert not scene.without_figures(scene.mark_queries())


def test_a_model_that_was_unloaded_fires_the_alert_of_its_absence(scene):
    request = urllib.request.Request(
        f"http://{scene.server.http_url}/v2/repository/models/similarity/unload",
        data=b"{}",
        headers={ADMIN_HEADER: scene.server.admin_key},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        assert reply.status == 200
    scene.prometheus.wait_for_alerts(OF_ABSENCE)

    def absent():
        labels = [alert["labels"] for alert in scene.prometheus.ask("alerts")["alerts"]]
        return {one["model"] for one in labels if one["alertname"] == "TritonclipModelAbsent"}

    # The ensemble needs the model, and may be gone a scrape before it.
    wait_until(lambda: absent() == {"similarity", "clip_zero_shot"}, lambda: str(absent()))
    served = dict(scene.panel_queries())["Versions served"]
    assert "vision_encoder" in str(scene.prometheus.query(served))
    assert "similarity" not in str(scene.prometheus.query(served))


def test_the_end_of_server_and_gateway_fires_the_last_alerts(scene):
    scene.server.stop(drain=False)
    scene.gateway.process.terminate()
    scene.prometheus.wait_for_alerts(OF_THE_END)


def test_every_alert_was_made_to_fire():
    assert OF_GPU | OF_LOAD | OF_FAULTS | OF_RESTARTS | OF_ABSENCE | OF_THE_END == ALERTS
