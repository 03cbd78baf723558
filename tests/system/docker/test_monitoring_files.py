"""Checks of docker/monitoring with promtool and Grafana's SDK, against the runbook and running programs."""

import functools
import json
import re
import subprocess
import sys
import urllib.request
from collections import Counter

import pytest
import yaml

from tests.helpers.servers import ROOT
from tests.system.docker.kubernetes_manifests import overlay
from tests.system.docker.prometheus_server import MONITORING, promtool, require_prometheus
from tritonclip import Client

COLUMNS = 24
# Members of Prometheus annotations, and the query text of variables, which the SDK does not know.
UNKNOWN_TO_THE_SDK = {"step", "textFormat", "titleFormat", "useValueForTime", "definition"}


@functools.cache
def rules(name):
    """Return the rules of a file."""
    groups = yaml.safe_load((MONITORING / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@functools.cache
def dashboard():
    """Return the dashboard."""
    return json.loads((MONITORING / "grafana" / "dashboards" / "tritonclip.json").read_text())


def panels():
    """Return the panels of the dashboard that show something."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


@pytest.fixture(autouse=True, scope="module")
def prometheus():
    require_prometheus()


@pytest.mark.parametrize("kind", ["config", "rules"])
def test_promtool_accepts_configuration_and_rules(kind):
    files = {"config": ["prometheus.yaml"], "rules": ["rules.yaml", "alerts.yaml"]}[kind]
    done = promtool("check", kind, *(MONITORING / name for name in files))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_prometheus_rule_contains_the_rules_of_both_files(tmp_path):
    command = [sys.executable, MONITORING / "prometheus_rule.py", "--namespace", "clip", "--release", "stack"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    manifest = yaml.safe_load(printed)
    assert manifest["kind"] == "PrometheusRule"
    assert manifest["metadata"] == {"name": "tritonclip", "namespace": "clip", "labels": {"release": "stack"}}
    groups = manifest["spec"]["groups"]
    assert [rule for group in groups for rule in group["rules"]] == [
        *rules("rules.yaml"),
        *rules("alerts.yaml"),
    ]
    names = [group["name"] for group in groups]
    assert len(set(names)) == len(names)  # otherwise the operator rejects it
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(manifest["spec"]))
    assert promtool("check", "rules", tmp_path / "rules.yaml").returncode == 0


@pytest.mark.parametrize("name", ["rules_test.yaml", "alerts_test.yaml"])
def test_unit_tests_of_the_rules_pass(name):
    done = promtool("test", "rules", MONITORING / name)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_and_alert_has_unit_tests():
    text = (MONITORING / "rules_test.yaml").read_text()
    assert not [rule["record"] for rule in rules("rules.yaml") if rule["record"] not in text]
    tests = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules("alerts.yaml")}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    absent = {"TritonclipServerDown", "TritonclipGatewayDown"}
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} >= names - absent


def test_recording_rules_are_named_by_level_metric_and_operation():
    for rule in rules("rules.yaml"):
        level, metric_name, operation = rule["record"].split(":")
        assert level.startswith("instance")
        assert metric_name.startswith("tritonclip_")
        assert operation in {"rate5m", "ratio_rate5m", "mean5m", "ratio"}


def test_every_alert_has_annotations_and_a_runbook_section():
    runbook = (ROOT / "docker" / "RUNBOOK.md").read_text()
    headings = {line.removeprefix("### ") for line in runbook.splitlines() if line.startswith("### ")}
    for rule in rules("alerts.yaml"):
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["for"]
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docker/RUNBOOK.md#{rule['alert'].lower()}"
        assert rule["alert"] in headings


def test_every_used_series_is_recorded_and_every_recorded_series_is_used():
    recorded = {rule["record"] for rule in rules("rules.yaml")}
    expressions = [rule["expr"] for rule in (*rules("rules.yaml"), *rules("alerts.yaml"))]
    expressions += [target["expr"] for panel in panels() for target in panel["targets"]]
    used = set(re.findall(r"\binstance\w*:\w+:\w+", "\n".join(expressions)))
    assert used <= recorded
    assert recorded - used <= {"instance_model_version:tritonclip_compute_seconds:mean5m"} | {
        name for name in recorded if name.endswith((":mean5m", "images:rate5m"))
    }


def test_prometheus_can_read_the_metrics_of_the_server(server):
    with Client(server.grpc_url) as client:
        client.embed_texts(["a red circle"])
    monitor = overlay("replicas").get("ServiceMonitor", "tritonclip-server")
    (endpoint,) = monitor["spec"]["endpoints"]
    with urllib.request.urlopen(f"http://{server.metrics_url}{endpoint['path']}", timeout=60) as reply:
        assert reply.headers.get_content_type() == "text/plain"  # Prometheus 3 rejects other types
        text = reply.read().decode()
    assert re.search(r'^nv_inference_request_success{[^}]*model="admission"', text, re.MULTILINE)
    done = promtool("check", "metrics", text=text)
    complaints = [line for line in done.stderr.splitlines() if line]
    assert complaints  # about metrics of Triton
    assert not [line for line in complaints if not line.startswith("nv_")]


def test_prometheus_can_read_the_metrics_of_the_gateway(pod_gateway):
    assert pod_gateway.post("/v1/embeddings", input=["a red circle"]).status == 200
    done = promtool("check", "metrics", text=pod_gateway.request("GET", "/metrics").data.decode())
    assert (done.returncode, done.stderr) == (0, "")


def lost(ours, theirs, name=""):
    """Yield the names of members that are missing or different in theirs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            yield from lost(value, theirs[key], key) if key in theirs else [key]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for one, other in zip(ours, theirs, strict=True):
            yield from lost(one, other, name)
    elif ours != theirs:
        yield name


def test_grafana_sdk_reads_the_whole_dashboard():
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason="requires Python 3.11")
    from grafana_foundation_sdk.cog import encoder, plugins

    plugins.register_default_plugins()
    read = models.Dashboard.from_json(dashboard())
    assert set(lost(dashboard(), json.loads(encoder.JSONEncoder().encode(read)))) == UNKNOWN_TO_THE_SDK
    assert dashboard()["schemaVersion"] <= models.Dashboard().schema_version


def test_panels_fill_the_grid_without_overlap():
    cells = Counter(
        (x, y)
        for panel in dashboard()["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    assert set(cells.values()) == {1}
    assert {x for x, _ in cells} == set(range(COLUMNS))
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])
    height = max(y for _, y in cells) + 1
    assert len(cells) == height * COLUMNS  # no gaps


def test_every_panel_has_a_description_and_valid_targets():
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert refs, panel["title"]
        assert len(set(refs)) == len(refs), panel["title"]
        for target in panel["targets"]:
            names = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert names <= labels_of(target["expr"]), panel["title"]
            assert target["legendFormat"] or panel["type"] == "table", panel["title"]
        thresholds = panel["fieldConfig"]["defaults"].get("thresholds", {})
        values = [step["value"] for step in thresholds.get("steps", [])]
        assert values[1:] == sorted(values[1:]), panel["title"]
        assert values[:1] in ([], [None]), panel["title"]


def labels_of(expr):
    """Return the labels that the series of an expression may have."""
    grouped = ",".join(re.findall(r"\bby \(([^)]*)\)", expr)).split(",")
    return {name.strip() for name in grouped} | {"instance", "exported_instance", "gpu_uuid", "reason"}


def test_variables_select_data_source_servers_and_gateways():
    variables = {one["name"]: one for one in dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "server", "gateway"]
    used = set(re.findall(r"\$(\w+)", json.dumps(panels())))
    assert used == {"server", "gateway", "__rate_interval"}
