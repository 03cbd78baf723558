"""The dashboard's sections on the server: requests, times, batches, the label cache, resources.

Ensembles count a failure twice and know nothing of queues: what is shown comes from the composing models, but
for the requests answered and their whole time.
"""

from __future__ import annotations

from collections.abc import Sequence

from panels import CALM, WARN, Heatmap, Panel, Query, TimeSeries

SERVER = 'instance=~"$server"'
COMPOSING, PUBLIC = f'{SERVER}, model!~"clip_.+"', f'{SERVER}, model=~"clip_.+"'
VISION = f'{SERVER}, model="vision_encoder"'
WINDOW = "[$__rate_interval]"


def _total(series: str, chosen: str, by: str = "model") -> str:
    return f"sum by ({by}) (rate({series}{{{chosen}}}{WINDOW}))"


def _mean_s(durations: Sequence[str], chosen: str) -> str:
    """Seconds a request, of durations that Triton adds up in microseconds."""
    spent = " + ".join(_total(f"nv_inference_{name}_duration_us", chosen) for name in durations)
    return f"({spent}) / 1e6 / ({_total('nv_inference_request_success', chosen)} > 0)"


def _quantile(quantile: float, series: str, chosen: str = SERVER) -> str:
    return f"histogram_quantile({quantile}, {_total(series + '_bucket', chosen, 'model, le')})"


TRAFFIC: Sequence[Panel] = [
    TimeSeries(
        title="Requests by outcome",
        description=(
            "Answered, refused by reason, failed by the server's own fault, and the rest: invalid input and "
            "calls that were given up. Means of 5 minutes."
        ),
        queries=[
            Query(f"sum(instance:tritonclip_requests_answered:rate5m{{{SERVER}}})", "answered"),
            Query(
                f"sum by (reason) (instance_reason:tritonclip_requests_refused:rate5m{{{SERVER}}})",
                "refused: {{reason}}",
            ),
            Query(f"sum(instance:tritonclip_requests_broken:rate5m{{{SERVER}}})", "failed"),
            Query(f"sum(instance:tritonclip_requests_invalid:rate5m{{{SERVER}}})", "invalid or given up"),
        ],
        unit="reqps",
        stacked=True,
    ),
    TimeSeries(
        title="Answered, by model",
        description="Requests a second that a public model answered.",
        queries=[Query(_total("nv_inference_request_success", PUBLIC), "{{model}}")],
        unit="reqps",
        stacked=True,
    ),
    TimeSeries(
        title="Refusals, by model",
        description=(
            "Where requests are refused: the later, the more work was done in vain. Draining is a stop."
        ),
        queries=[
            Query(
                _total("tritonclip_requests_refused_total", SERVER, "model, reason"), "{{model}}: {{reason}}"
            )
        ],
        unit="reqps",
    ),
    TimeSeries(
        title="Images and labels",
        description=(
            "Images that the vision encoder processed, and labels that came to the text encoder, cached ones "
            "too."
        ),
        queries=[
            Query(f"sum(rate(tritonclip_images_total{{{VISION}}}{WINDOW}))", "images"),
            Query(f"sum(rate(tritonclip_labels_total{{{SERVER}}}{WINDOW}))", "labels"),
        ],
        unit="suffix:/s",
    ),
    TimeSeries(
        title="Failures by model and reason",
        description=(
            "BACKEND: the process of the model is gone, or its code failed as a whole. CANCELED: the caller "
            "is gone."
        ),
        queries=[
            Query(_total("nv_inference_request_failure", COMPOSING, "model, reason"), "{{model}}: {{reason}}")
        ],
        unit="reqps",
    ),
    TimeSeries(
        title="Waiting and worked on",
        description="Requests that wait for a model, and those of the dynamic batch in execution.",
        queries=[
            Query(f"sum by (model) (nv_inference_pending_request_count{{{COMPOSING}}})", "{{model}} waiting"),
            Query(f"sum by (model) (tritonclip_requests_executing{{{SERVER}}})", "{{model}} executing"),
        ],
    ),
]

LATENCY: Sequence[Panel] = [
    TimeSeries(
        title="Request, by public model",
        description=(
            "Mean time from Triton's receipt of a request to its answer, of requests that were answered."
        ),
        queries=[Query(_mean_s(["request"], PUBLIC), "{{model}}")],
        unit="s",
    ),
    TimeSeries(
        title="Queue, by stage",
        description="Mean time that a request waits for the model. Where it rises is the bottleneck.",
        queries=[Query(_mean_s(["queue"], COMPOSING), "{{model}}")],
        unit="s",
        thresholds=((None, CALM), (1, WARN)),
    ),
    TimeSeries(
        title="Work, by stage",
        description=(
            "Mean time that a request spends in the model, its whole batch included: preprocessing, "
            "encoders, scoring."
        ),
        queries=[
            Query(_mean_s(["compute_input", "compute_infer", "compute_output"], COMPOSING), "{{model}}")
        ],
        unit="s",
        stacked=True,
    ),
    TimeSeries(
        title="Batch time, median",
        description="Half of the dynamic batches take no longer.",
        queries=[Query(_quantile(0.5, "tritonclip_batch_seconds"), "{{model}}")],
        unit="s",
        width=12,
    ),
    TimeSeries(
        title="Batch time, 95 %",
        description="95 of 100 dynamic batches take no longer.",
        queries=[Query(_quantile(0.95, "tritonclip_batch_seconds"), "{{model}}")],
        unit="s",
        width=12,
    ),
]

BATCHES: Sequence[Panel] = [
    TimeSeries(
        title="Requests in a batch, mean",
        description="Requests that Triton merged into a dynamic batch.",
        queries=[
            Query(
                f"{_total('tritonclip_batch_requests_sum', SERVER)} "
                f"/ ({_total('tritonclip_batch_requests_count', SERVER)} > 0)",
                "{{model}}",
            )
        ],
    ),
    TimeSeries(
        title="Images or labels in a batch, mean",
        description="What a model works on at once: images, and labels for the text encoder.",
        queries=[
            Query(
                f"{_total('tritonclip_batch_size_sum', SERVER)} "
                f"/ ({_total('tritonclip_batch_size_count', SERVER)} > 0)",
                "{{model}}",
            )
        ],
    ),
    TimeSeries(
        title="Images or labels in a batch, 95 %",
        description="95 of 100 batches are no larger; estimated from buckets that double in width.",
        queries=[Query(_quantile(0.95, "tritonclip_batch_size"), "{{model}}")],
    ),
    Heatmap(
        title="Requests in a batch, vision encoder",
        description="How many batches there were of each size.",
        queries=[
            Query(
                f"sum by (le) (increase(tritonclip_batch_requests_bucket{{{VISION}}}{WINDOW}))",
                "{{le}}",
                format="heatmap",
            )
        ],
        width=12,
    ),
    Heatmap(
        title="Images in a batch, vision encoder",
        description="How many batches there were of each size.",
        queries=[
            Query(
                f"sum by (le) (increase(tritonclip_batch_size_bucket{{{VISION}}}{WINDOW}))",
                "{{le}}",
                format="heatmap",
            )
        ],
        width=12,
    ),
]

CACHE: Sequence[Panel] = [
    TimeSeries(
        title="Share of labels found",
        description=(
            "Over 5 minutes. Labels that are not found must be encoded. Each text_encoder instance has its "
            "own cache."
        ),
        queries=[
            Query(f"instance:tritonclip_label_cache_hits:ratio_rate5m{{{SERVER}}}", "{{instance}}"),
        ],
        unit="percentunit",
        maximum=1,
    ),
    TimeSeries(
        title="Size of the cache",
        description="Bytes that each cache holds; text_encoder.cache_bytes bounds them.",
        queries=[
            Query(f"tritonclip_label_cache_bytes{{{SERVER}}}", "{{instance}} {{exported_instance}}"),
        ],
        unit="bytes",
    ),
    TimeSeries(
        title="Labels encoded and dropped",
        description=(
            "A second. Steady evictions with few labels found: the cache is too small for the labels in use."
        ),
        queries=[
            Query(f"sum(rate(tritonclip_label_cache_misses_total{{{SERVER}}}{WINDOW}))", "encoded"),
            Query(f"sum(rate(tritonclip_label_cache_evictions_total{{{SERVER}}}{WINDOW}))", "dropped"),
        ],
        unit="suffix:/s",
    ),
]

RESOURCES: Sequence[Panel] = [
    TimeSeries(
        title="Model instances: share of the time busy",
        description="Near 100 % there is no room for more load: add instances, or servers.",
        queries=[
            Query(
                f"rate(tritonclip_batch_seconds_sum{{{SERVER}}}{WINDOW})",
                "{{instance}} {{exported_instance}}",
            )
        ],
        unit="percentunit",
        maximum=1,
        thresholds=((None, CALM), (0.9, WARN)),
    ),
    TimeSeries(
        title="CPU of the machine",
        description="Share of all cores in use, by whomever.",
        queries=[Query(f"nv_cpu_utilization{{{SERVER}}}", "{{instance}}")],
        unit="percentunit",
        maximum=1,
    ),
    TimeSeries(
        title="Memory of the machine",
        description="In use, by whomever, and in all.",
        queries=[
            Query(f"nv_cpu_memory_used_bytes{{{SERVER}}}", "{{instance}} used"),
            Query(f"nv_cpu_memory_total_bytes{{{SERVER}}}", "{{instance}} total"),
        ],
        unit="bytes",
    ),
    TimeSeries(
        title="GPU: utilization",
        description="Share of the time in which a kernel ran. Empty without a GPU.",
        queries=[Query(f"nv_gpu_utilization{{{SERVER}}}", "{{instance}} {{gpu_uuid}}")],
        unit="percentunit",
        maximum=1,
    ),
    TimeSeries(
        title="GPU: memory",
        description=(
            "In use, by whomever, and in all. A rollout needs room for both versions. Empty without a GPU."
        ),
        queries=[
            Query(f"nv_gpu_memory_used_bytes{{{SERVER}}}", "{{instance}} {{gpu_uuid}} used"),
            Query(f"nv_gpu_memory_total_bytes{{{SERVER}}}", "{{instance}} {{gpu_uuid}} total"),
        ],
        unit="bytes",
    ),
    TimeSeries(
        title="GPU: power",
        description="Drawn, and the limit. Empty without a GPU.",
        queries=[
            Query(f"nv_gpu_power_usage{{{SERVER}}}", "{{instance}} {{gpu_uuid}} drawn"),
            Query(f"nv_gpu_power_limit{{{SERVER}}}", "{{instance}} {{gpu_uuid}} limit"),
        ],
        unit="watt",
    ),
]
