"""Checks of docker/monitoring with promtool and Grafana's SDK, and against the runbook and compose.yaml."""

import json
import re
import subprocess
import sys
import urllib.request
from collections import Counter

import pytest
import yaml

from tests.helpers.calls import metric
from tests.helpers.servers import ROOT
from tests.system.docker.prometheus_server import MONITORING, promtool, require_prometheus
from tritonclip import Client
from tritonclip_server.benchmarks.gateway_process import running

RULES, ALERTS = (
    [rule for group in yaml.safe_load((MONITORING / name).read_text())["groups"] for rule in group["rules"]]
    for name in ("rules.yaml", "alerts.yaml")
)
DASHBOARD = json.loads((MONITORING / "grafana" / "dashboards" / "tritonclip.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [rule["expr"] for rule in (*RULES, *ALERTS)] + [
    target["expr"] for panel in PANELS for target in panel["targets"]
]
COLUMNS = 24
# Members of Prometheus annotations, and the query text of variables, which the SDK does not know.
UNKNOWN_TO_THE_SDK = {"step", "textFormat", "titleFormat", "useValueForTime", "definition"}


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
    assert [rule for group in groups for rule in group["rules"]] == [*RULES, *ALERTS]
    names = [group["name"] for group in groups]
    assert len(set(names)) == len(names)  # otherwise the operator rejects it
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(manifest["spec"]))
    assert promtool("check", "rules", tmp_path / "rules.yaml").returncode == 0


@pytest.mark.parametrize("path", sorted(MONITORING.glob("*_test.yaml")), ids=lambda path: path.name)
def test_unit_tests_of_the_rules_pass(path):
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_and_alert_has_unit_tests():
    text = (MONITORING / "rules_test.yaml").read_text()
    assert not [rule["record"] for rule in RULES if rule["record"] not in text]
    tests = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in ALERTS}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    absent = {"TritonclipServerDown", "TritonclipGatewayDown"}
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} >= names - absent


def test_changed_threshold_fails_the_unit_tests(tmp_path):
    for name in ("rules.yaml", "alerts.yaml", "alerts_test.yaml"):
        (tmp_path / name).write_text(
            (MONITORING / name).read_text().replace("ratio_rate5m > 0.01", "ratio_rate5m > 0.03")
        )
    assert promtool("test", "rules", tmp_path / "alerts_test.yaml").returncode != 0


def test_recording_rules_are_named_by_level_metric_and_operation():
    for rule in RULES:
        level, metric_name, operation = rule["record"].split(":")
        assert level.startswith("instance")
        assert metric_name.startswith("tritonclip_")
        assert operation in {"rate5m", "ratio_rate5m", "mean5m", "ratio"}


def test_every_alert_has_annotations_and_a_runbook_section():
    runbook = (ROOT / "docker" / "RUNBOOK.md").read_text()
    headings = {line.removeprefix("### ") for line in runbook.splitlines() if line.startswith("### ")}
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["for"]
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docker/RUNBOOK.md#{rule['alert'].lower()}"
        assert rule["alert"] in headings


def test_every_used_series_is_recorded_and_every_recorded_series_is_used():
    recorded = {rule["record"] for rule in RULES}
    used = set(re.findall(r"\binstance\w*:\w+:\w+", "\n".join(EXPRESSIONS)))
    assert used <= recorded
    assert recorded - used <= {"instance_model_version:tritonclip_compute_seconds:mean5m"} | {
        name for name in recorded if name.endswith((":mean5m", "images:rate5m"))
    }


def test_promtool_accepts_the_metrics_of_the_models(server):
    with Client(server.grpc_url) as client:
        client.embed_texts(["a red circle"])
    done = promtool("check", "metrics", text=server.metrics())
    complaints = [line for line in done.stderr.splitlines() if line]
    assert complaints  # about metrics of Triton
    assert not [line for line in complaints if not line.startswith("nv_")]
    assert metric(server, "nv_inference_request_success", model="admission")


def test_server_metrics_have_a_content_type_that_prometheus_3_accepts(server):
    with urllib.request.urlopen(f"http://{server.metrics_url}/metrics", timeout=30) as reply:
        assert reply.headers.get_content_type() == "text/plain"


def test_promtool_accepts_the_metrics_of_the_gateway(server):
    with running(server.grpc_url) as gateway:
        assert gateway.post("/v1/embeddings", input=["a red circle"]).status == 200
        done = promtool("check", "metrics", text=gateway.request("GET", "/metrics").data.decode())
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
    read = models.Dashboard.from_json(DASHBOARD)
    assert set(lost(DASHBOARD, json.loads(encoder.JSONEncoder().encode(read)))) == UNKNOWN_TO_THE_SDK
    assert DASHBOARD["schemaVersion"] <= models.Dashboard().schema_version


def test_panels_fill_the_grid_without_overlap():
    cells = Counter(
        (x, y)
        for panel in DASHBOARD["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    assert set(cells.values()) == {1}
    assert {x for x, _ in cells} == set(range(COLUMNS))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    height = max(y for _, y in cells) + 1
    assert len(cells) == height * COLUMNS  # no gaps


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_has_a_description_and_valid_targets(panel):
    assert panel["description"].endswith(".")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    refs = [target["refId"] for target in panel["targets"]]
    assert refs
    assert len(set(refs)) == len(refs)
    for target in panel["targets"]:
        grouped = {
            name.strip()
            for labels in re.findall(r"\bby \(([^)]*)\)", target["expr"])
            for name in labels.split(",")
        } | {"instance", "exported_instance", "gpu_uuid", "reason"}
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= grouped
        assert target["legendFormat"] or panel["type"] == "table"
    values = [
        step["value"] for step in panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    ]
    assert values[1:] == sorted(values[1:])
    assert values[:1] in ([], [None])


def test_variables_select_data_source_servers_and_gateways():
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "server", "gateway"]
    used = set(re.findall(r"\$(\w+)", json.dumps(PANELS)))
    assert used == {"server", "gateway", "__rate_interval"}


def test_compose_mounts_every_referenced_file():
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    targets = {
        target
        for job in config["scrape_configs"]
        for one in job["static_configs"]
        for target in one["targets"]
    }
    assert {target.partition(":")[0] for target in targets} <= set(services)
    mounts = dict(volume.split(":")[:2] for volume in services["prometheus"]["volumes"])
    for name in config["rule_files"]:
        assert mounts[f"./monitoring/{name}"] == f"/etc/prometheus/{name}"
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    provider = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/tritonclip.yaml").read_text())
    assert mounts["./monitoring/grafana/dashboards"] == provider["providers"][0]["options"]["path"]
    source = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    assert source["datasources"][0]["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
