"""A real Prometheus with a real Triton and gateway: every query finds series, every alert has a real cause.

The shipped files are used with shorter times: scrapes every second, rates over 15 s, alerts after 1 s. Some
thresholds are lowered, see LOWERED_THRESHOLDS. The GPU figures are synthetic. `alerts_test.yaml` tests that
alerts do not fire below their thresholds.
"""

import contextlib
import json
import math
import os
import re
import signal
import time
import urllib.request

import pytest
import yaml

from tests.helpers.gate import Gate
from tests.helpers.gateway import run_gateway
from tests.helpers.variants import UNCOMPILED
from tests.helpers.waiting import wait_until
from tests.system.docker.gpu_exporter import gpu_exporter
from tests.system.docker.monitored_load import MonitoredLoad
from tests.system.docker.pods import EXIT_UNAVAILABLE, run_probe
from tests.system.docker.prometheus_server import HOPELESS_S, MONITORING, Prometheus, require_prometheus
from tritonclip_server.serving.release import ADMIN_HEADER

WINDOW, LONG_WINDOW = "15s", "15m"
BUDGET_MS = 1000
LOWERED_THRESHOLDS = {
    "TritonclipQueueTimeHigh": ("> 1", "> 0.1"),
    "TritonclipSaturated": ("> 0.9", "> 0.05"),
    "TritonclipCacheHitsLow": ("> 10", "> 1"),
    "TritonclipRestartLoop": (">= 3", ">= 1"),
}
GPU_ALERTS = {"TritonclipGpuMemoryFull", "TritonclipGpuBusy"}
OVERLOAD_ALERTS = {"TritonclipOverload", "TritonclipQueueTimeHigh", "TritonclipGatewayErrors"}
LOAD_ALERTS = {"TritonclipSaturated", "TritonclipCacheHitsLow"}
FAULT_ALERTS = {"TritonclipErrors", "TritonclipGatewayNotReady"}
RESTART_ALERTS = {"TritonclipRestarted", "TritonclipRestartLoop"}
ABSENCE_ALERTS = {"TritonclipModelAbsent"}
SHUTDOWN_ALERTS = {"TritonclipServerDown", "TritonclipGatewayDown"}


def speed_up(rules):
    """Shorten the times of the rules, and lower the thresholds in LOWERED_THRESHOLDS.

    The windows in which restarts are counted stay as they are, because a restart may take longer than 15 s.
    """
    for group in rules["groups"]:
        for rule in group["rules"]:
            old, new = LOWERED_THRESHOLDS.get(rule.get("alert"), ("", ""))
            assert not old or rule["expr"].count(old) == 1
            rule["expr"] = re.sub(
                r"(?<!start_time_seconds)\[\d+m\]", f"[{WINDOW}]", rule["expr"].replace(old, new)
            )
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
    """A server that a gate can hold, its gateway, and Prometheus."""

    def __init__(self, server, gate, gateway, prometheus):
        self.server, self.gate, self.gateway, self.prometheus = server, gate, gateway, prometheus

    def load(self, flood=0):
        """Return callers of the server and the gateway."""
        return MonitoredLoad(self.server.grpc_url, self.gateway.url, flood)

    def panel_queries(self, server=".*"):
        """Yield title and query of every panel, for these servers."""
        for panel in self._dashboard()["panels"]:
            for target in panel.get("targets", ()):
                yield panel["title"], self._fill(target["expr"], server, WINDOW)

    def annotation_queries(self):
        """Yield name and query of every annotation."""
        for annotation in self._dashboard()["annotations"]["list"]:
            yield annotation["name"], self._fill(annotation["expr"], ".*", LONG_WINDOW)

    def _dashboard(self):
        return json.loads((MONITORING / "grafana" / "dashboards" / "tritonclip.json").read_text())

    def _fill(self, expr, server, window):
        for name, value in {"$__rate_interval": window, "$server": server, "$gateway": ".*"}.items():
            expr = expr.replace(name, value)
        assert "$" not in expr
        return expr

    def without_values(self, queries):
        """Return the queries that find no series with a finite value."""
        return {
            (title, expr)
            for title, expr in queries
            if not any(math.isfinite(float(found["value"][1])) for found in self.prometheus.query(expr))
        }

    def wait_for_values(self, queries):
        """Wait until all queries find a series with a finite value."""
        queries = list(queries)
        wait_until(
            lambda: not self.without_values(queries), lambda: str(self.without_values(queries)), HOPELESS_S, 1
        )


@pytest.fixture
def scene(prepare, servers, tmp_path):
    require_prometheus()
    budget = ("--set", f"admission.queue_budget_ms={BUDGET_MS}")
    repository = prepare("scripts/demo/checkpoint", "--precision", "float32", *UNCOMPILED, *budget)
    gate = Gate(tmp_path)
    gate.install(repository, "vision_encoder")
    with contextlib.ExitStack() as stack:
        why = "alerts: it is overloaded, killed and restarted while Prometheus scrapes it"
        server = stack.enter_context(servers.run(repository, why, explicit=True))
        gateway = stack.enter_context(run_gateway(server.grpc_url, "--attempts", "1"))
        gpu = stack.enter_context(gpu_exporter())
        write_configuration(tmp_path, server.metrics_url, gateway.url.removeprefix("http://"), gpu)
        yield Scene(server, gate, gateway, stack.enter_context(Prometheus(tmp_path)))


@pytest.mark.slow
def test_every_alert_fires_for_its_cause_and_every_query_finds_series(scene):
    faults_of_callers_fire_no_alert(scene)
    overload_fires_its_alerts_and_fills_every_panel(scene)
    killed_process_fires_the_fault_alerts(scene)
    restart_fires_its_alerts_and_is_annotated(scene)
    unloaded_model_fires_the_absence_alert(scene)
    stop_fires_the_shutdown_alerts(scene)


def faults_of_callers_fire_no_alert(scene):
    scene.prometheus.wait_for_alerts(GPU_ALERTS)
    with scene.load() as load:
        wait_until(lambda: load.outcomes["answered"] > 50, lambda: str(load.outcomes), HOPELESS_S)
        invalid = [("invalid", "instance:tritonclip_requests_invalid:rate5m > 0")]
        invalid += [("400", 'rate(tritonclip_gateway_requests_total{status="400"}[15s]) > 0')]
        scene.wait_for_values(invalid)
        assert not scene.prometheus.alerts() & (FAULT_ALERTS | ABSENCE_ALERTS | RESTART_ALERTS)


def overload_fires_its_alerts_and_fills_every_panel(scene):
    with scene.load(flood=8) as load:

        def overload():
            with scene.gate.closed():
                scene.gate.wait_until_it_holds()
                time.sleep(2 * BUDGET_MS / 1000)  # at least: requests of the first half have waited too long
            return scene.prometheus.alerts() >= OVERLOAD_ALERTS

        wait_until(overload, lambda: f"{load.outcomes}, {scene.prometheus.alerts()}", HOPELESS_S)
        assert load.outcomes["overloaded"]
        scene.prometheus.wait_for_alerts(LOAD_ALERTS)
        scene.wait_for_values(scene.panel_queries())
        rules = [rule for group in scene.prometheus.ask("rules")["groups"] for rule in group["rules"]]
        recorded = [(rule["name"], rule["name"]) for rule in rules if rule["type"] == "recording"]
        assert len(recorded) > 10
        scene.wait_for_values(recorded)
        assert all(rule["health"] == "ok" for rule in rules)
        of_server = set(scene.panel_queries(scene.server.metrics_url))
        of_gpu = {query for query in of_server if "nv_gpu_" in query[1]}
        assert {title for title, _ in of_gpu} == {"GPU: utilization", "GPU: memory", "GPU: power"}
        scene.wait_for_values(of_server - of_gpu)
        assert scene.without_values(of_gpu) == of_gpu  # the GPU exporter is another target


def killed_process_fires_the_fault_alerts(scene):
    (pid,) = (pid for pid, model in scene.server.stubs().items() if model == "vision_encoder")
    os.kill(pid, signal.SIGKILL)
    with scene.load():
        scene.prometheus.wait_for_alerts(FAULT_ALERTS)
    assert "TritonclipModelAbsent" not in scene.prometheus.alerts()
    assert run_probe(scene.server.grpc_url) == EXIT_UNAVAILABLE


def restart_fires_its_alerts_and_is_annotated(scene):
    assert not scene.prometheus.alerts() & RESTART_ALERTS
    scene.server.kill()
    scene.server.start()
    scene.prometheus.wait_for_alerts(RESTART_ALERTS)
    scene.wait_for_values(scene.annotation_queries())


def unloaded_model_fires_the_absence_alert(scene):
    request = urllib.request.Request(
        f"http://{scene.server.http_url}/v2/repository/models/similarity/unload",
        data=b"{}",
        headers={ADMIN_HEADER: scene.server.admin_key},
    )
    with urllib.request.urlopen(request, timeout=HOPELESS_S) as reply:
        assert reply.status == 200
    scene.prometheus.wait_for_alerts(ABSENCE_ALERTS)

    def absent():
        labels = [alert["labels"] for alert in scene.prometheus.ask("alerts")["alerts"]]
        return {one["model"] for one in labels if one["alertname"] == "TritonclipModelAbsent"}

    # The ensemble depends on the model, and may disappear one scrape earlier.
    wait_until(lambda: absent() == {"similarity", "clip_zero_shot"}, lambda: str(absent()), HOPELESS_S)
    served = dict(scene.panel_queries())["Versions served"]
    wait_until(
        lambda: "vision_encoder" in str(scene.prometheus.query(served)), "no version served", HOPELESS_S
    )
    assert "similarity" not in str(scene.prometheus.query(served))


def stop_fires_the_shutdown_alerts(scene):
    scene.server.stop(drain=False)
    scene.gateway.process.terminate()
    scene.prometheus.wait_for_alerts(SHUTDOWN_ALERTS)


def test_a_cause_is_tested_for_every_alert():
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    tested = GPU_ALERTS | OVERLOAD_ALERTS | LOAD_ALERTS | FAULT_ALERTS
    tested |= RESTART_ALERTS | ABSENCE_ALERTS | SHUTDOWN_ALERTS
    assert {rule["alert"] for group in groups for rule in group["rules"]} == tested
