"""Prometheus metrics of a model instance: its requests and dynamic batches, and the weights that it serves.

Triton itself counts requests and rows, but a row may hold any number of images or labels. Every update of a
metric is a message to Triton, so finished batches are queued and published by a background thread.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

PUBLISH_INTERVAL_S = 0.25
"""Longest delay before a finished batch shows in the metrics."""
REASONS = ("overload", "deadline", "draining")
"""Values of the label `reason` of rejected requests."""
REQUEST_BUCKETS = tuple(float(2**power) for power in range(8))
SIZE_BUCKETS = tuple(float(2**power) for power in range(15))
SECOND_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class MetricFactory:
    """Creates the series of a model instance and keeps them alive.

    Every series carries `labels`, because two versions of a model must not share one.

    Args:
        pb_utils: Triton's `triton_python_backend_utils`.
        args: The arguments of `initialize`.
    """

    def __init__(self, pb_utils: Any, args: dict[str, str]) -> None:
        self._family_class = pb_utils.MetricFamily
        self.labels = {
            "model": args["model_name"],
            "version": args["model_version"],
            "instance": args["model_instance_name"],
        }
        # Triton drops the series of objects that are garbage-collected.
        self._families: dict[str, Any] = {}
        self._metrics: list[Any] = []

    def counter(self, name: str, description: str, **labels: str) -> Any:
        """Create a counter, `tritonclip_` before its name."""
        return self._create("COUNTER", name, description, labels)

    def gauge(self, name: str, description: str, **labels: str) -> Any:
        """Create a gauge, `tritonclip_` before its name."""
        return self._create("GAUGE", name, description, labels)

    def histogram(self, name: str, description: str, buckets: Iterable[float]) -> Any:
        """Create a histogram with these upper bounds, `tritonclip_` before its name."""
        return self._create("HISTOGRAM", name, description, {}, buckets=list(buckets))

    def _create(self, kind: str, name: str, description: str, labels: dict[str, str], **options: Any) -> Any:
        if name not in self._families:
            self._families[name] = self._family_class(
                name=f"tritonclip_{name}", description=description, kind=getattr(self._family_class, kind)
            )
        metric = self._families[name].Metric(labels={**self.labels, **labels}, **options)
        self._metrics.append(metric)
        return metric


class Batch(NamedTuple):
    """A finished dynamic batch."""

    requests: int
    """Requests that Triton merged, including rejected ones."""
    size: int
    """Images or labels of the requests that succeeded."""
    seconds: float
    """Time from parsing the first request to building the last response."""


class RequestMetrics:
    """Publishes the requests and dynamic batches of a model instance, and when it was loaded.

    Args:
        factory: Creates the series.
        unit: "images" or "labels" to count either, or None.
        batches: Publish the executing requests and finished batches.
    """

    def __init__(self, factory: MetricFactory, unit: str | None, batches: bool) -> None:
        self._unit, self._batches = unit, batches
        self._factory = factory  # keeps every series of the instance alive, not only those made here
        factory.gauge("start_time_seconds", "Unix time at which the model instance was loaded").set(
            time.time()
        )
        self._rejected = {
            reason: factory.counter(
                "requests_refused_total",
                "Requests rejected before any work on them, by reason: overload, deadline or draining",
                reason=reason,
            )
            for reason in REASONS
        }
        if batches:
            self._executing = factory.gauge(
                "requests_executing", "Requests that are being executed, in the dynamic batch or later"
            )
            self._in_batch = self._deferred = 0
            self._lock = threading.Lock()
        self._requests = factory.histogram("batch_requests", "Requests per dynamic batch", REQUEST_BUCKETS)
        self._seconds = factory.histogram(
            "batch_seconds", "Execution time of a dynamic batch in seconds", SECOND_BUCKETS
        )
        if unit:
            self._total = factory.counter(f"{unit}_total", f"{unit.capitalize()} processed")
            self._size = factory.histogram("batch_size", "Images or labels per dynamic batch", SIZE_BUCKETS)
        self._finished: deque[Batch] = deque()
        self._closed = threading.Event()
        self._publisher = threading.Thread(target=self._publish_until_closed, daemon=True)
        self._publisher.start()

    def begin(self, requests: int) -> None:
        """Publish that a dynamic batch of this many requests is being executed."""
        if self._batches:
            self._count(requests - self._in_batch, 0)

    def defer(self) -> None:
        """Publish that a request of the dynamic batch is executed after it."""
        self._count(-1, 1)

    def finish_deferred(self, batch: Batch, rejections: Counter[str]) -> None:
        """Publish a deferred request as a batch of its own size."""
        self._publish_rejections(rejections)
        self._finished.append(batch)
        self._count(0, -1)

    def finish(self, batch: Batch, rejections: Counter[str]) -> None:
        """Publish the rejections by reason and queue the finished batch."""
        self._publish_rejections(rejections)
        if self._batches:
            self._finished.append(batch)
            self._count(-self._in_batch, 0)

    def _publish_rejections(self, rejections: Counter[str]) -> None:
        for reason, count in rejections.items():
            self._rejected[reason].increment(count)

    def _count(self, in_batch: int, deferred: int) -> None:
        """Change the numbers of requests that are being executed, and publish their sum."""
        with self._lock:
            self._in_batch += in_batch
            self._deferred += deferred
            self._executing.set(self._in_batch + self._deferred)

    def close(self) -> None:
        """Publish the queued batches and stop the thread."""
        self._closed.set()
        self._publisher.join()

    def _publish_until_closed(self) -> None:
        while not self._closed.wait(PUBLISH_INTERVAL_S):
            self._publish()
        self._publish()

    def _publish(self) -> None:
        size = 0
        with contextlib.suppress(IndexError):
            while True:
                batch = self._finished.popleft()
                self._requests.observe(batch.requests)
                self._seconds.observe(batch.seconds)
                if self._unit and batch.size:
                    self._size.observe(batch.size)
                    size += batch.size
        if size:
            self._total.increment(size)


def publish_model_info(
    factory: MetricFactory, logger: Any, directory: Path, *, precision: str, execution: str
) -> None:
    """Publish `tritonclip_model_info`, whose value is always 1, and log the same facts.

    Args:
        factory: Creates the series.
        logger: Triton's `pb_utils.Logger`.
        directory: The version directory, with its `manifest.json`.
        precision: dtype of the matrix products, "float32" for example.
        execution: "eager", "compiled" or "cuda_graphs".
    """
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    checkpoint = manifest["checkpoint"]
    facts = {
        "identity": manifest["identity"],
        "checkpoint": checkpoint["source"],
        "revision": checkpoint["revision"],
        "sha256": checkpoint["sha256"],
        "precision": precision,
        "execution": execution,
    }
    description = "Version served and its precision, as labels; the value is always 1"
    factory.gauge("model_info", description, **facts).set(1)
    logged = {**factory.labels, **facts}
    logger.log_info("serving " + ", ".join(f"{key}={value}" for key, value in logged.items()))
