"""What a server's metrics say of its work: what is inside each model, and what it has done. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

ADMISSION = "admission"  # the model that refuses work; what it does is no work of the server
_SERIES = re.compile(r'^(\w+)\{([^}]*\bmodel="([^"]+)"[^}]*)\} (\S+)$', re.MULTILINE)
_EXECUTING = "tritonclip_requests_executing"
_INSIDE = {_EXECUTING, "nv_inference_pending_request_count"}
_DONE = {"nv_inference_request_success", "nv_inference_request_failure", "nv_inference_exec_count"}


@dataclass(frozen=True)
class Work:
    """The work of a model.

    Attributes:
        inside: Requests that wait or are worked on.
        done: Rises with every request that is finished, in whatever way.
    """

    inside: float = 0
    done: float = 0


def read_work(metrics: str, version: int | None = None) -> dict[str, Work]:
    """The work of each model that does some: not of ensembles, nor of the one that admits or refuses.

    Args:
        metrics: The server's metrics in Prometheus' text form.
        version: Of the models; all versions where None.
    """
    inside: dict[str, float] = defaultdict(float)
    done: dict[str, float] = defaultdict(float)
    working = set()
    for name, labels, model, value in _SERIES.findall(metrics):
        if version is not None and f'version="{version}"' not in labels:
            continue
        working |= {model} if name == _EXECUTING else set()
        inside[model] += float(value) if name in _INSIDE else 0
        done[model] += float(value) if name in _DONE else 0
    return {model: Work(inside[model], done[model]) for model in working - {ADMISSION}}


def inside(work: Mapping[str, Work]) -> float:
    """Requests inside the server's models."""
    return sum(one.inside for one in work.values())


def stuck(before: Mapping[str, Work], now: Mapping[str, Work]) -> list[str]:
    """The models that have had work all the while, and finished none of it."""
    none = Work()
    return sorted(
        model
        for model, one in now.items()
        if one.inside > 0 and before.get(model, none).inside > 0 and one.done == before[model].done
    )


def moves(before: Mapping[str, Work], now: Mapping[str, Work]) -> bool:
    """Whether there is work, and no model is stuck with it."""
    return inside(now) > 0 and not stuck(before, now)
