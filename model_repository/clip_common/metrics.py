"""What a model instance has done, as Prometheus series: images and labels, dynamic batches, their times.

Triton itself counts requests and rows, of which each may hold any number of images. Every figure is a message
to Triton, so batches are only noted, and a thread publishes them a moment later. Knows nothing of a model.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

PUBLISH_S = 0.25
"""How long a figure may lag behind."""
REQUEST_BUCKETS = tuple(float(2**power) for power in range(8))
SIZE_BUCKETS = tuple(float(2**power) for power in range(15))
SECOND_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Batch(NamedTuple):
    """A dynamic batch that was worked on."""

    requests: int
    """That Triton merged, the refused ones included."""
    size: int
    """Images or labels of those that were answered."""
    seconds: float
    """From the first request read to the last answer made."""


def instance_labels(args: dict[str, str]) -> dict[str, str]:
    """The labels of every series of a model instance; two versions of a model must not share one.

    Args:
        args: What Triton hands to `initialize`.
    """
    return {
        "model": args["model_name"],
        "version": args["model_version"],
        "instance": args["model_instance_name"],
    }


class BatchMetrics:
    """Publishes the batches of a model instance, and when it was loaded.

    Args:
        pb_utils: Triton's `triton_python_backend_utils`.
        args: What Triton hands to `initialize`.
        unit: What is counted, images or labels; None counts neither.
    """

    def __init__(self, pb_utils: Any, args: dict[str, str], unit: str | None) -> None:
        self._pb_utils, self._labels, self._unit = pb_utils, instance_labels(args), unit
        self._families: list[Any] = []  # Triton shows no series of a family that is gone
        loaded = self._metric(
            "start_time_seconds", "Unix time at which the model instance was loaded", "GAUGE"
        )
        loaded.set(time.time())
        self._requests = self._histogram("batch_requests", "Requests of a dynamic batch", REQUEST_BUCKETS)
        self._seconds = self._histogram(
            "batch_seconds", "Time that a dynamic batch was worked on", SECOND_BUCKETS
        )
        if unit:
            self._total = self._metric(f"{unit}_total", f"{unit.capitalize()} processed", "COUNTER")
            self._size = self._histogram("batch_size", "Images or labels of a dynamic batch", SIZE_BUCKETS)
        self._noted: deque[Batch] = deque()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._publish_until_closed, daemon=True)
        self._thread.start()

    def note(self, batch: Batch) -> None:
        """Takes note of a batch, at next to no cost."""
        self._noted.append(batch)

    def close(self) -> None:
        """Publishes what was noted, and ends the thread."""
        self._closed.set()
        self._thread.join()

    def _publish_until_closed(self) -> None:
        while not self._closed.wait(PUBLISH_S):
            self._publish()
        self._publish()

    def _publish(self) -> None:
        size = 0
        with contextlib.suppress(IndexError):
            while True:
                batch = self._noted.popleft()
                self._requests.observe(batch.requests)
                self._seconds.observe(batch.seconds)
                if self._unit and batch.size:
                    self._size.observe(batch.size)
                    size += batch.size
        if size:
            self._total.increment(size)

    def _histogram(self, name: str, description: str, buckets: tuple[float, ...]) -> Any:
        return self._metric(name, description, "HISTOGRAM", buckets=list(buckets))

    def _metric(self, name: str, description: str, kind: str, **options: Any) -> Any:
        family = self._pb_utils.MetricFamily(
            name=f"tritonclip_{name}",
            description=description,
            kind=getattr(self._pb_utils.MetricFamily, kind),
        )
        self._families.append(family)
        return family.Metric(labels=self._labels, **options)


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
