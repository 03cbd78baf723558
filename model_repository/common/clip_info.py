"""Which weights a model instance serves, and how: one Prometheus series with the facts as its labels.

The same checkpoint facts stand in the `parameters` of the model's configuration; the precision and the way of
execution in use are known only once `auto` has met the device.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clip_metrics import instance_labels


def publish_model_info(
    pb_utils: Any, args: dict[str, str], directory: Path, precision: str, execution: str
) -> list[Any]:
    """Publishes `tritonclip_model_info` (always 1) and logs the same facts.

    Args:
        pb_utils: Triton's `triton_python_backend_utils`.
        args: What Triton hands to `initialize`.
        directory: The version directory, with its `manifest.json`.
        precision: dtype of the matrix products in use.
        execution: How the tower is run: eager, compiled or cuda_graphs.

    Returns:
        The objects that must stay alive for the series to be shown.
    """
    checkpoint = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))["checkpoint"]
    facts = {
        **instance_labels(args),
        "checkpoint": checkpoint["source"],
        "revision": checkpoint["revision"],
        "sha256": checkpoint["sha256"],
        "precision": precision,
        "execution": execution,
    }
    family = pb_utils.MetricFamily(
        name="tritonclip_model_info",
        description="The weights served and their precision, as labels; the value is always 1",
        kind=pb_utils.MetricFamily.GAUGE,
    )
    metric = family.Metric(labels=facts)
    metric.set(1)
    pb_utils.Logger.log_info("serving " + ", ".join(f"{key}={value}" for key, value in facts.items()))
    return [family, metric]
