"""What a server's metrics say of its models: facts, requests in flight and requests finished.

The functions here are pure; the launcher fetches the metrics.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

ADMISSION = "admission"
"""The model that admits or rejects requests. Its own requests are not work of the server."""
_SERIES = re.compile(r'^(\w+)\{([^}]*\bmodel="([^"]+)"[^}]*)\} (\S+)$', re.MULTILINE)
_EXECUTING = "tritonclip_requests_executing"
_IN_FLIGHT = {_EXECUTING, "nv_inference_pending_request_count"}
_FINISHED = {"nv_inference_request_success", "nv_inference_request_failure", "nv_inference_exec_count"}


def model_facts(metrics: str, model: str) -> dict[str, str]:
    """Return the labels of a model's `tritonclip_model_info`, or no labels if it has none.

    Args:
        metrics: The server's metrics in Prometheus' text format.
        model: Name of the model.
    """
    for name, labels, its_model, value in _SERIES.findall(metrics):
        if name == "tritonclip_model_info" and its_model == model and float(value) == 1:
            return dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels))
    return {}


@dataclass(frozen=True)
class ModelProgress:
    """The progress of one model.

    Attributes:
        in_flight: Requests that are queued or executing.
        finished: A counter that rises with every request that succeeds or fails.
    """

    in_flight: float = 0
    finished: float = 0


def read_progress(metrics: str, version: int | None = None) -> dict[str, ModelProgress]:
    """Return the progress of each Python model except `admission`; ensembles have none.

    Args:
        metrics: The server's metrics in Prometheus' text format.
        version: Version of the models; all versions if None.
    """
    in_flight: dict[str, float] = defaultdict(float)
    finished: dict[str, float] = defaultdict(float)
    models = set()
    for name, labels, model, value in _SERIES.findall(metrics):
        if version is not None and f'version="{version}"' not in labels:
            continue
        models |= {model} if name == _EXECUTING else set()
        in_flight[model] += float(value) if name in _IN_FLIGHT else 0
        finished[model] += float(value) if name in _FINISHED else 0
    return {model: ModelProgress(in_flight[model], finished[model]) for model in models - {ADMISSION}}


def total_in_flight(progress: Mapping[str, ModelProgress]) -> float:
    """Return the number of requests that are queued or executing in all models."""
    return sum(one.in_flight for one in progress.values())


def stalled_models(before: Mapping[str, ModelProgress], now: Mapping[str, ModelProgress]) -> list[str]:
    """Return the models that had requests in flight both times and finished none in between."""
    none = ModelProgress()
    return sorted(
        model
        for model, one in now.items()
        if one.in_flight > 0
        and before.get(model, none).in_flight > 0
        and one.finished == before[model].finished
    )


def is_progressing(before: Mapping[str, ModelProgress], now: Mapping[str, ModelProgress]) -> bool:
    """Return whether requests are in flight and no model is stalled."""
    return total_in_flight(now) > 0 and not stalled_models(before, now)
