"""Prometheus metrics of a model instance: its requests and dynamic batches, and the weights that it serves.

Triton itself counts requests and rows, but a row may hold any number of images or labels. Every update of a
series is a message to Triton, which takes longer than parsing a small request, and two threads must not
update one series at a time: Triton's process would read freed memory. So updates are collected, and a
background thread sends them.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PUBLISH_INTERVAL_S = 0.25
"""Longest delay before an update shows in the metrics."""
REASONS = ("overload", "deadline", "draining")
"""Values of the label `reason` of rejected requests."""
REQUEST_BUCKETS = tuple(float(2**power) for power in range(8))
SIZE_BUCKETS = tuple(float(2**power) for power in range(15))
SECOND_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Series:
    """A counter, gauge or histogram whose updates are sent later. Any thread may update it.

    Args:
        metric: Triton's metric.
    """

    def __init__(self, metric: Any) -> None:
        self._metric = metric
        self._lock = threading.Lock()
        self._added = 0.0
        self._value: float | None = None
        self._sent: float | None = None
        self._observed: deque[float] = deque()

    def increment(self, amount: float) -> None:
        """Add to a counter."""
        if amount:
            with self._lock:
                self._added += amount

    def set(self, value: float) -> None:
        """Set a gauge."""
        self._value = value

    def set_now(self, value: float) -> None:
        """Set a gauge, without delay if its published value is lower."""
        with self._lock:
            self._value = value
            if self._sent is None or self._sent < value:
                self._send_value(value)

    def observe(self, value: float) -> None:
        """Add a value to a histogram."""
        self._observed.append(value)

    def publish(self) -> None:
        """Send all updates to Triton."""
        with self._lock:
            added, self._added = self._added, 0.0
            if added:
                self._metric.increment(added)
            if self._value is not None and self._value != self._sent:
                self._send_value(self._value)
            for _ in range(len(self._observed)):
                self._metric.observe(self._observed.popleft())

    def _send_value(self, value: float) -> None:
        self._metric.set(value)
        self._sent = value


class MetricFactory:
    """Creates the series of a model instance, keeps them alive, and publishes their updates.

    Every series carries `labels`, because two versions of a model must not share one, nor two instances. The
    instances on several GPUs have the same name.

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
            "device": instance_device(args),
        }
        # Triton drops the series of objects that are garbage-collected.
        self._families: dict[str, Any] = {}
        self._series: list[Series] = []
        self._closed = threading.Event()
        self._publisher = threading.Thread(target=self._publish_until_closed, name="metrics", daemon=True)
        self._publisher.start()

    def counter(self, name: str, description: str, **labels: str) -> Series:
        """Create a counter, `tritonclip_` before its name."""
        return self._create("COUNTER", name, description, labels)

    def gauge(self, name: str, description: str, **labels: str) -> Series:
        """Create a gauge, `tritonclip_` before its name."""
        return self._create("GAUGE", name, description, labels)

    def histogram(self, name: str, description: str, buckets: Iterable[float]) -> Series:
        """Create a histogram with these upper bounds, `tritonclip_` before its name."""
        return self._create("HISTOGRAM", name, description, {}, buckets=list(buckets))

    def publish(self) -> None:
        """Send all updates to Triton."""
        for series in list(self._series):
            series.publish()

    def close(self) -> None:
        """Publish the remaining updates and stop the thread."""
        self._closed.set()
        self._publisher.join()

    def _create(
        self, kind: str, name: str, description: str, labels: dict[str, str], **options: Any
    ) -> Series:
        if name not in self._families:
            self._families[name] = self._family_class(
                name=f"tritonclip_{name}", description=description, kind=getattr(self._family_class, kind)
            )
        series = Series(self._families[name].Metric(labels={**self.labels, **labels}, **options))
        self._series.append(series)
        return series

    def _publish_until_closed(self) -> None:
        while not self._closed.wait(PUBLISH_INTERVAL_S):
            self.publish()
        self.publish()


def instance_device(args: dict[str, str]) -> str:
    """Return the device of a model instance: "cpu", "gpu0", "gpu1" …; `args` are those of `initialize`."""
    return f"gpu{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"


class Batch(NamedTuple):
    """A finished dynamic batch."""

    requests: int
    """Requests that Triton merged, including rejected ones."""
    size: int
    """Images or labels of the requests that succeeded."""
    seconds: float
    """Time from parsing the first request to building the last response."""


class RequestMetrics:
    """Counts the requests and dynamic batches of a model instance, and says when it was loaded.

    Args:
        factory: Creates the series.
        unit: "images" or "labels" to count either, or None.
        batches: Count the executing requests and finished batches.
    """

    def __init__(self, factory: MetricFactory, unit: str | None, batches: bool) -> None:
        self._unit, self._batches = unit, batches
        self._factory = factory
        factory.gauge("start_time_seconds", "Unix time at which the model instance was loaded").set_now(
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

    def begin(self, requests: int) -> None:
        """Publish at once that a dynamic batch of this many requests is being executed.

        A server that is about to stop waits for them.
        """
        if self._batches:
            self._count(requests - self._in_batch, 0)

    def defer(self) -> None:
        """Count a request of the dynamic batch as one that is executed after it."""
        self._count(-1, 1)

    def finish_deferred(self, batch: Batch, rejections: Sequence[str]) -> None:
        """Count a deferred request as a batch of its own size."""
        self._count_finished(batch, rejections)
        self._count(0, -1)

    def finish(self, batch: Batch, rejections: Sequence[str]) -> None:
        """Count a finished batch, and its rejected requests by their reasons."""
        self._count_finished(batch, rejections)
        if self._batches:
            self._count(-self._in_batch, 0)

    def close(self) -> None:
        """Publish the remaining updates."""
        self._factory.close()

    def _count_finished(self, batch: Batch, rejections: Sequence[str]) -> None:
        for reason in rejections:
            self._rejected[reason].increment(1)
        if not self._batches:
            return
        self._requests.observe(batch.requests)
        self._seconds.observe(batch.seconds)
        if self._unit and batch.size:
            self._size.observe(batch.size)
            self._total.increment(batch.size)

    def _count(self, in_batch: int, deferred: int) -> None:
        """Change the numbers of requests that are being executed."""
        with self._lock:
            self._in_batch += in_batch
            self._deferred += deferred
            self._executing.set_now(self._in_batch + self._deferred)


def publish_model_info(
    factory: MetricFactory, logger: Any, directory: Path, *, precision: str, execution: str
) -> Series:
    """Publish `tritonclip_model_info` with the value 1, and log the same facts.

    Args:
        factory: Creates the series.
        logger: Triton's `pb_utils.Logger`.
        directory: The version directory, with its `manifest.json`.
        precision: dtype of the matrix products, "float32" for example.
        execution: "eager", "compiled" or "cuda_graphs".

    Returns:
        The series, to be set to 0 when other facts hold.
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
    description = "1 for the version served and its precision, named by the labels; 0 for former facts"
    series = factory.gauge("model_info", description, **facts)
    series.set_now(1)
    logged = {**factory.labels, **facts}
    logger.log_info("serving " + ", ".join(f"{key}={value}" for key, value in logged.items()))
    return series
