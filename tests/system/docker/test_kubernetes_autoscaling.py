"""The prometheus-adapter rule of the autoscaler, with promtool and the metrics of a real server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.servers import ROOT
from tests.system.docker.kubernetes_manifests import MANIFESTS, overlay
from tests.system.docker.prometheus_server import promtool, require_prometheus

POD = {"namespace": "tritonclip", "pod": "tritonclip-server-1"}
OTHER_POD = {**POD, "pod": "tritonclip-server-2"}
QUEUE, DONE = "nv_inference_queue_duration_us", "nv_inference_request_success"


@pytest.fixture(scope="module")
def rule() -> dict[str, Any]:
    values = yaml.safe_load((MANIFESTS / "prometheus-adapter-values.yaml").read_text("utf-8"))
    assert values["rules"].keys() == {"default", "custom"}
    (only,) = values["rules"]["custom"]
    return dict(only)


def steps(rule: dict[str, Any]) -> list[str]:
    """Return the models whose queue times the rule adds up."""
    return re.findall(r'model=~"([^"]+)"', rule["metricsQuery"])[0].split("|")


def pod_query(rule: dict[str, Any]) -> str:
    """Return the query that the adapter creates from the template for a pod."""
    matchers = ",".join(f'{name}="{value}"' for name, value in POD.items())
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>", matchers).replace("<<.GroupBy>>", "pod")
    assert "<<" not in query
    return str(query)


def series(name: str, increase: int, **labels: str) -> dict[str, str]:
    """Return a synthetic counter that increases steadily, in the format of promtool's unit tests."""
    text = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return {"series": f"{name}{{{text}}}", "values": f"0+{increase}x40"}


def test_autoscaler_uses_the_metric_of_the_rule(rule):
    (used,) = overlay("replicas").get("HorizontalPodAutoscaler", "tritonclip-server")["spec"]["metrics"]
    assert used["type"] == "Pods"
    assert used["pods"]["metric"] == {"name": rule["name"]["as"]}
    assert used["pods"]["target"]["type"] == "AverageValue"
    overrides = rule["resources"]["overrides"]
    assert overrides == {name: {"resource": name} for name in POD}
    assert re.fullmatch(rule["name"]["matches"], QUEUE)


def test_rule_returns_the_mean_queue_time_of_a_request(rule, tmp_path: Path):
    """Each request waits 1 ms for the first model, 2 ms for the second, and so on."""
    require_prometheus()
    requests = 30
    inputs = [
        series(QUEUE, requests * wait_ms * 1000, model=step, **POD)
        for wait_ms, step in enumerate(steps(rule), start=1)
    ]
    inputs += [series(DONE, requests, model=step, **POD) for step in (*steps(rule), "clip_zero_shot")]
    inputs += [series(QUEUE, 10**9, model="clip_zero_shot", **POD)]
    inputs += [
        series(QUEUE, 10**9, model="admission", **OTHER_POD),
        series(DONE, 7, model="admission", **OTHER_POD),
    ]
    expected = {"labels": f'{{pod="{POD["pod"]}"}}', "value": sum(range(1, len(steps(rule)) + 1))}
    case = {"expr": f"round({pod_query(rule)}, 0.001)", "eval_time": "5m", "exp_samples": [expected]}
    test = {"interval": "15s", "input_series": inputs, "promql_expr_test": [case]}
    (tmp_path / "test.yaml").write_text(json.dumps({"tests": [test]}), "utf-8")
    done = promtool("test", "rules", tmp_path / "test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_rule_covers_every_model_with_a_queue(rule):
    models = {path.parent.parent.name for path in (ROOT / "model_repository").glob("*/1/model.py")}
    assert set(steps(rule)) == models


def test_server_has_the_metrics_of_the_rule(rule, server):
    metrics = server.metrics()
    for name, models in ((QUEUE, steps(rule)), (DONE, ["admission"])):
        assert name in rule["metricsQuery"]
        for model in models:
            assert re.search(rf'^{name}{{[^}}]*model="{model}"', metrics, re.MULTILINE), (name, model)
