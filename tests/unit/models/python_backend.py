"""What `clip_common` uses of Triton's `triton_python_backend_utils`, which only Triton can import."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Tensor(NamedTuple):
    name: str
    array: np.ndarray

    def as_numpy(self) -> np.ndarray:
        return self.array


class TritonError(NamedTuple):
    message: str
    code: str

    INVALID_ARG, UNAVAILABLE, INTERNAL = "INVALID_ARG", "UNAVAILABLE", "INTERNAL"


class InferenceResponse(NamedTuple):
    output_tensors: list[Tensor] | None = None
    error: TritonError | None = None


class ResponseSender(NamedTuple):
    """Appends what it sends to a list."""

    sent: list[tuple[InferenceResponse, int]]

    def send(self, response: InferenceResponse, flags: int) -> None:
        self.sent.append((response, flags))


class Request(NamedTuple):
    """A request with tensors by name."""

    tensors: dict[str, np.ndarray]
    name: str = ""
    sent: list[tuple[InferenceResponse, int]] | None = None

    def request_id(self) -> str:
        return self.name

    def get_response_sender(self) -> ResponseSender:
        assert self.sent is not None
        return ResponseSender(self.sent)


@dataclass
class Metric:
    """A series that keeps every value it was given."""

    labels: dict[str, str]
    collisions: list[str]
    buckets: list[float] | None = None
    values: list[float] = field(default_factory=list)

    busy: bool = False

    def set(self, value: float) -> None:
        with self._update():
            self.values = [value]

    def increment(self, value: float) -> None:
        with self._update():
            self.values = [sum(self.values) + value]

    def observe(self, value: float) -> None:
        with self._update():
            self.values.append(value)

    @contextmanager
    def _update(self) -> Iterator[None]:
        if self.busy:
            self.collisions.append(str(self.labels))
        self.busy = True
        time.sleep(0)  # another thread may run, as while Triton works
        yield
        self.busy = False


@dataclass
class Family:
    """All series of a metric."""

    name: str
    kind: str
    description: str
    collisions: list[str]
    series: list[Metric] = field(default_factory=list)

    def Metric(self, **options: object) -> Metric:  # noqa: N802 (Triton's name)
        self.series.append(Metric(collisions=self.collisions, **options))
        return self.series[-1]


class Backend:
    """An object in place of the module, which records metrics and the log.

    Attributes:
        families: Metrics by name.
        collisions: Labels of series that two threads updated at once.
        log: Logged lines, each after its level.
    """

    Tensor, TritonError, InferenceResponse = Tensor, TritonError, InferenceResponse
    TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1

    def __init__(self) -> None:
        families: dict[str, Family] = {}
        collisions: list[str] = []

        class MetricFamily:
            COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

            def __new__(cls, *, name: str, kind: str, description: str) -> Family:
                assert name not in families, f"a second family {name}"
                families[name] = Family(name, kind, description, collisions)
                return families[name]

        self.MetricFamily, self.families, self.collisions = MetricFamily, families, collisions
        self.log: list[str] = []
        self.Logger = self

    def log_info(self, text: str) -> None:
        self.log.append(f"info: {text}")

    def log_error(self, text: str) -> None:
        self.log.append(f"error: {text}")

    def get_input_tensor_by_name(self, request: Request, name: str) -> Tensor | None:
        return Tensor(name, request.tensors[name]) if name in request.tensors else None

    def values(self, name: str, **labels: str) -> list[float]:
        """Return the value of a gauge or counter, or all values that a histogram observed."""
        (found,) = [
            series for series in self.families[name].series if labels.items() <= series.labels.items()
        ]
        return found.values
