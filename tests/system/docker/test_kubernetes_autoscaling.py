"""The prometheus-adapter rule with a real Prometheus that scrapes a real server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.helpers.calls import metric, together
from tests.helpers.servers import ROOT
from tests.helpers.waiting import wait_until
from tests.system.docker.kubernetes_manifests import MANIFESTS, overlay
from tests.system.docker.prometheus_server import Prometheus, require_prometheus
from tritonclip import Client
from tritonclip_server.serving.launcher import EmbeddedTriton

POD = {"namespace": "tritonclip", "pod": "tritonclip-server-1"}
IMAGES = sorted((ROOT / "scripts/demo/images").glob("*.*g"))
SCRAPES = 10
"""Number of scrapes before and after the load.

rate() extrapolates by up to half an interval, less for counters near zero. With this many scrapes the error
is below
`TOLERANCE`."""
TOLERANCE = 0.05
QUEUE, DONE = "nv_inference_queue_duration_us", "nv_inference_request_success"


@pytest.fixture(scope="module")
def rule() -> dict[str, Any]:
    values = yaml.safe_load((MANIFESTS / "prometheus-adapter-values.yaml").read_text("utf-8"))
    assert values["rules"].keys() == {"default", "custom"}
    (only,) = values["rules"]["custom"]
    return dict(only)


@pytest.fixture
def prometheus(server: EmbeddedTriton, tmp_path: Any) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes the server every 0.5 s, with the labels that the operator adds."""
    require_prometheus()
    job = {
        "job_name": "tritonclip-server",
        "scrape_interval": "500ms",
        "scrape_timeout": "500ms",
        "static_configs": [{"targets": [server.metrics_url], "labels": POD}],
    }
    (tmp_path / "prometheus.yaml").write_text(json.dumps({"scrape_configs": [job]}), "utf-8")
    with Prometheus(tmp_path) as running:
        yield running


def pod_query(rule: dict[str, Any]) -> str:
    """Return the query that the adapter creates from the template for a pod."""
    matchers = ",".join(f'{name}="{value}"' for name, value in POD.items())
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>", matchers).replace("<<.GroupBy>>", "pod")
    assert "<<" not in query
    return str(query)


def test_autoscaler_uses_the_metric_of_the_rule(rule):
    (used,) = overlay("replicas").get("HorizontalPodAutoscaler", "tritonclip-server")["spec"]["metrics"]
    assert used["type"] == "Pods"
    assert used["pods"]["metric"] == {"name": rule["name"]["as"]}
    assert used["pods"]["target"]["type"] == "AverageValue"
    overrides = rule["resources"]["overrides"]
    assert overrides == {name: {"resource": name} for name in POD}
    assert re.fullmatch(rule["name"]["matches"], QUEUE)


@pytest.mark.slow
def test_rule_returns_the_mean_queue_time_of_a_request(rule, prometheus, server, record_property):
    query = pod_query(rule)
    steps = re.findall(r'model=~"([^"]+)"', query)[0].split("|")
    wait_until(lambda: scrapes(prometheus) >= SCRAPES, "the server is not scraped")
    before = reading(server, steps)
    with Client(server.grpc_url) as client:
        together(16, lambda index: [client.embed_images(IMAGES) for _ in range(6)])
    time.sleep(0.5)  # Triton counts a moment after it has answered
    waited_us, requests = (now - then for now, then in zip(reading(server, steps), before, strict=True))
    assert requests == 96
    seen = scrapes(prometheus)
    wait_until(lambda: scrapes(prometheus) >= seen + SCRAPES, "the server is not scraped any more")
    (series,) = prometheus.query(query)
    assert series["metric"] == {"pod": POD["pod"]}
    assert float(series["value"][1]) == pytest.approx(waited_us / requests / 1000, rel=TOLERANCE)
    assert waited_us > 0
    record_property("queue_ms", waited_us / requests / 1000)
    (found,) = prometheus.ask("series", **{"match[]": rule["seriesQuery"]})
    assert found.items() >= {**POD, "__name__": QUEUE}.items()


def scrapes(prometheus: Prometheus) -> float:
    series = prometheus.query("count_over_time(up[10m])")
    return float(series[0]["value"][1]) if series else 0


def reading(server: EmbeddedTriton, steps: list[str]) -> tuple[float, float]:
    """Return the queue time over all steps in microseconds, and the number of admitted requests."""
    waited = sum(metric(server, QUEUE, model=step) for step in steps)
    return waited, metric(server, DONE, model="admission")


def test_rule_covers_every_model_with_a_queue(rule):
    steps = set(re.findall(r'model=~"([^"]+)"', rule["metricsQuery"])[0].split("|"))
    models = {path.parent.parent.name for path in (ROOT / "model_repository").glob("*/1/model.py")}
    assert steps == models
