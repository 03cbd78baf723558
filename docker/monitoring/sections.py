"""What the dashboard shows, from top to bottom. The server's parts stand in `server_sections.py`."""

from __future__ import annotations

from collections.abc import Sequence

from panels import BAD, CALM, WARN, Panel, Query, Stat, Table, TimeSeries
from server_sections import BATCHES, CACHE, LATENCY, RESOURCES, TRAFFIC

SERVER, GATEWAY = 'instance=~"$server"', 'instance=~"$gateway"'
ASKED = f'{GATEWAY}, route!~"/healthz|/readyz|/metrics"'
OVERLOADED = f'{SERVER}, reason="overload"'
# Our own series stay where a model or a version was unloaded; Triton's go.
STARTS = f"tritonclip_start_time_seconds{{{SERVER}}}"
LOADED = "on (job, instance, model, version) nv_inference_request_success"
WINDOW = "[$__rate_interval]"
SHARE = ((None, CALM), (0.01, WARN), (0.05, BAD))


def _latency(quantile: float, by: str, legend: str) -> Query:
    buckets = f"sum by ({by}) (rate(tritonclip_gateway_request_seconds_bucket{{{ASKED}}}{WINDOW}))"
    return Query(f"histogram_quantile({quantile}, {buckets})", legend)


OVERVIEW: Sequence[Panel] = [
    Stat(
        title="Requests",
        description="Requests a second that reached the servers, whatever became of them.",
        queries=[
            Query(
                f'sum(rate(nv_inference_request_success{{{SERVER}, model="admission"}}{WINDOW}))',
                "requests",
            )
        ],
        unit="reqps",
        width=4,
        height=4,
    ),
    Stat(
        title="Failed by the server",
        description=(
            "Share of the requests that failed by the server's own fault, over 5 minutes: the worst server."
        ),
        queries=[Query(f"max(instance:tritonclip_requests_broken:ratio_rate5m{{{SERVER}}})", "failed")],
        unit="percentunit",
        thresholds=SHARE,
        width=4,
        height=4,
    ),
    Stat(
        title="Refused for overload",
        description=(
            "Share of the requests that waited longer than admission.queue_budget_ms, over 5 minutes: the "
            "worst server."
        ),
        queries=[
            Query(
                f"max(instance_reason:tritonclip_requests_refused:ratio_rate5m{{{OVERLOADED}}})",
                "refused",
            )
        ],
        unit="percentunit",
        thresholds=SHARE,
        width=4,
        height=4,
    ),
    Stat(
        title="Longest queue",
        description="Mean time that a request waits for one model, over 5 minutes: the worst model.",
        queries=[Query(f"max(instance_model_version:tritonclip_queue_seconds:mean5m{{{SERVER}}})", "waits")],
        unit="s",
        thresholds=((None, CALM), (0.5, WARN), (1, BAD)),
        width=4,
        height=4,
    ),
    Stat(
        title="Gateway, 95 %",
        description="95 of 100 requests to the gateway are answered within this time.",
        queries=[_latency(0.95, "le", "p95")],
        unit="s",
        thresholds=((None, CALM), (1, WARN), (5, BAD)),
        width=4,
        height=4,
    ),
    Stat(
        title="Targets that answer",
        description="Share of the servers and gateways whose metrics Prometheus can read.",
        queries=[Query('avg(up{job=~"tritonclip-.+"})', "up")],
        unit="percentunit",
        maximum=1,
        thresholds=((None, BAD), (0.99, WARN), (1, CALM)),
        width=4,
        height=4,
    ),
    Table(
        title="Alerts",
        description=(
            "Alerts of docker/monitoring/alerts.yaml that are pending or firing; docker/RUNBOOK.md says what "
            "to do."
        ),
        queries=[Query('ALERTS{alertname=~"Tritonclip.+"}', "", instant=True, format="table")],
        columns={
            "alertname": "alert",
            "alertstate": "state",
            "severity": "severity",
            "instance": "instance",
            "model": "model",
        },
        width=24,
        height=5,
    ),
]

GATEWAYS: Sequence[Panel] = [
    TimeSeries(
        title="Requests by status",
        description="Without those at /healthz, /readyz and /metrics. 499 is a caller who hung up.",
        queries=[
            Query(
                f"sum by (status) (rate(tritonclip_gateway_requests_total{{{ASKED}}}{WINDOW}))", "{{status}}"
            )
        ],
        unit="reqps",
        stacked=True,
    ),
    TimeSeries(
        title="Latency",
        description=(
            "From the headers of a request to the end of the answer, the upload of its body included."
        ),
        queries=[
            _latency(0.5, "le", "p50"),
            _latency(0.95, "le", "p95"),
            _latency(0.99, "le", "p99"),
        ],
        unit="s",
    ),
    TimeSeries(
        title="Latency by route, 95 %",
        description="95 of 100 requests to the route are answered within this time.",
        queries=[_latency(0.95, "le, route", "{{route}}")],
        unit="s",
    ),
    TimeSeries(
        title="In flight",
        description="Requests under way in each gateway; --max-requests bounds them.",
        queries=[Query(f"tritonclip_gateway_requests_in_flight{{{GATEWAY}}}", "{{instance}}")],
    ),
    TimeSeries(
        title="Bodies in flight",
        description="Bytes of bodies that each gateway holds; --max-mib bounds them.",
        queries=[Query(f"tritonclip_gateway_body_bytes_in_flight{{{GATEWAY}}}", "{{instance}}")],
        unit="bytes",
    ),
    TimeSeries(
        title="Images and texts",
        description="Images by result, and texts, a second. An image that cannot be read fails alone.",
        queries=[
            Query(
                f"sum by (result) (rate(tritonclip_gateway_images_total{{{GATEWAY}}}{WINDOW}))",
                "images {{result}}",
            ),
            Query(f"sum(rate(tritonclip_gateway_texts_total{{{GATEWAY}}}{WINDOW}))", "texts"),
        ],
        unit="suffix:/s",
    ),
    TimeSeries(
        title="Memory",
        description="Resident memory of the gateway's process.",
        queries=[
            Query(f'process_resident_memory_bytes{{{GATEWAY}, job="tritonclip-gateway"}}', "{{instance}}")
        ],
        unit="bytes",
        width=12,
    ),
    TimeSeries(
        title="CPU",
        description=(
            "Cores that the gateway's process uses. It is one thread of Python: near 1 is its limit, start "
            "another."
        ),
        queries=[
            Query(
                f'rate(process_cpu_seconds_total{{{GATEWAY}, job="tritonclip-gateway"}}{WINDOW})',
                "{{instance}}",
            )
        ],
        unit="suffix: cores",
        thresholds=((None, CALM), (0.9, WARN)),
        width=12,
    ),
]

DEPLOYMENT: Sequence[Panel] = [
    Table(
        title="Weights served",
        description="Of each encoder: checkpoint, precision, and how it is executed.",
        queries=[Query(f"tritonclip_model_info{{{SERVER}}} and {LOADED}", "", instant=True, format="table")],
        columns={
            "instance": "server",
            "model": "model",
            "version": "version",
            "checkpoint": "checkpoint",
            "revision": "revision",
            "precision": "precision",
            "execution": "execution",
        },
        width=16,
    ),
    Table(
        title="Versions served",
        description="Model instances of each version; two versions of a model stand here during a rollout.",
        queries=[
            Query(
                f"count by (instance, model, version) ({STARTS} and {LOADED})",
                "",
                instant=True,
                format="table",
            )
        ],
        columns={"instance": "server", "model": "model", "version": "version", "Value": "instances"},
    ),
    TimeSeries(
        title="Restarts",
        description=(
            "Times that a model instance was loaded anew within 15 minutes, by the supervisor, a rollout or "
            "an operator."
        ),
        queries=[
            Query(
                f"max by (instance, model) (changes({STARTS}[15m]))",
                "{{instance}} {{model}}",
            )
        ],
        thresholds=((None, CALM), (1, WARN), (3, BAD)),
        width=12,
    ),
    TimeSeries(
        title="Age",
        description="Time since the model's youngest instance was loaded.",
        queries=[
            Query(
                f"time() - max by (instance, model) ({STARTS} and {LOADED})",
                "{{instance}} {{model}}",
            )
        ],
        unit="s",
        width=12,
    ),
]

SECTIONS: Sequence[tuple[str, Sequence[Panel]]] = [
    ("At a glance", OVERVIEW),
    ("Server: requests", TRAFFIC),
    ("Server: where the time goes", LATENCY),
    ("Server: dynamic batches", BATCHES),
    ("Server: label cache", CACHE),
    ("Server: resources", RESOURCES),
    ("Gateway", GATEWAYS),
    ("Deployment", DEPLOYMENT),
]
