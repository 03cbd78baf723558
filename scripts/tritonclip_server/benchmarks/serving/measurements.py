"""The measurements: how each is warmed up and run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tritonclip import Client
from tritonclip_server.benchmarks import perf_analyzer, workload
from tritonclip_server.benchmarks.serving import stages
from tritonclip_server.benchmarks.serving.contenders import (
    Contender,
    HttpContender,
    TritonContender,
    WorkerContender,
)

MODEL = "clip_zero_shot"
HTTP_CALLERS = 16
DECODE_BATCH = 16
PROBE_REQUESTS = 4

Figures = dict[str, Any]
"""Result of one measurement.

- `images_per_s` and `p50_ms`, always
- `requests_per_s`, `p95_ms`, `p99_ms`, and `client_cpu_ms`, the CPU time of the load generator per request,
  for servers
- `stages` from `stages.means_between`, for this system
"""


@dataclass
class MeasurementContext:
    """Contenders, folders and request counts of a benchmark.

    Attributes:
        contenders: Started contenders by name.
        scratch: Folder with `photos`, `large` and `labels.json`, and for temporary files.
        program: Path of perf_analyzer.
        requests: Number of requests of each measurement by name. The warm-up sets it, so that all rounds send
            the same number.
    """

    contenders: Mapping[str, Contender]
    scratch: Path
    program: Path
    requests: dict[str, int] = field(default_factory=dict)


class Measurement(Protocol):
    """A measurement, one line of the result."""

    @property
    def name(self) -> str:
        """Name in `--only` and in the result."""

    @property
    def contender(self) -> str:
        """Name of the contender."""

    @property
    def title(self) -> str:
        """Description in the report."""

    def warm_up(self, context: MeasurementContext, seconds: float) -> None:
        """Warm up, and choose how many requests take about `seconds`."""

    def run(self, context: MeasurementContext, seconds: float) -> Figures:
        """Measure for about `seconds`."""


@dataclass(frozen=True)
class WorkerMeasurement:
    """Batches of images in a worker process, until the time is over.

    Attributes:
        share: Share of the usual seconds. Parts of the system are steadier than servers.
    """

    name: str
    contender: str
    title: str
    part: str
    batch: int
    share: float = 1.0

    def warm_up(self, context: MeasurementContext, seconds: float) -> None:
        """Process one batch."""
        self.run(context, 0)

    def run(self, context: MeasurementContext, seconds: float) -> Figures:
        """Process batches; see `worker.timed`."""
        worker = context.contenders[self.contender]
        assert isinstance(worker, WorkerContender)
        return {**worker.command(part=self.part, batch=self.batch, seconds=seconds * self.share)}


@dataclass(frozen=True)
class HttpMeasurement:
    """An HTTP server with one image per request."""

    name: str
    title: str

    @property
    def contender(self) -> str:
        """Name of the contender, which is that of the measurement."""
        return self.name

    def warm_up(self, context: MeasurementContext, seconds: float) -> None:
        """Send two requests per caller; the second one shows the speed."""
        self._send(context, HTTP_CALLERS)
        probe = self._send(context, HTTP_CALLERS)
        context.requests[self.name] = request_count(probe["requests_per_s"], HTTP_CALLERS, seconds)

    def run(self, context: MeasurementContext, seconds: float) -> Figures:
        """Send as many requests as the warm-up has chosen."""
        return self._send(context, context.requests[self.name])

    def _send(self, context: MeasurementContext, requests: int) -> Figures:
        server = context.contenders[self.contender]
        assert isinstance(server, HttpContender)
        command = [
            sys.executable,
            "-m",
            "tritonclip_server.benchmarks.serving.http_load",
            f"{server.url}/predict",
        ]
        command += [
            "--photos",
            str(context.scratch / "photos"),
            "--labels",
            str(context.scratch / "labels.json"),
        ]
        command += ["--callers", str(HTTP_CALLERS), "--requests", str(requests)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the load for {self.name} failed: {done.stderr[-2000:]}\n{server.failure()}")
        return http_figures(json.loads(done.stdout))


@dataclass(frozen=True)
class TritonMeasurement:
    """This system over gRPC, with load from perf_analyzer.

    Attributes:
        photos: Folder in `MeasurementContext.scratch`.
    """

    name: str
    callers: int
    labels: int = workload.LABEL_COUNT
    images: int = 1
    photos: str = "photos"

    @property
    def contender(self) -> str:
        """Name of the contender."""
        return "triton"

    @property
    def title(self) -> str:
        """Description such as "this system, 16 callers, 100 labels", without the default values."""
        parts = ["this system", _count(self.callers, "caller")]
        if self.labels != workload.LABEL_COUNT:
            parts.append(_count(self.labels, "label"))
        if self.images != 1:
            parts.append(f"{self.images} images per request")
        if self.photos == "large":
            parts.append("photos of {} x {}".format(*workload.LARGE_PHOTO_SIZE))
        return ", ".join(parts)

    def warm_up(self, context: MeasurementContext, seconds: float) -> None:
        """Fill the label cache, then measure the speed."""
        probe = self._send(context, max(self.callers, PROBE_REQUESTS))
        if probe["p50_ms"] < seconds * 500:  # the caches were cold; repeat unless it is slow
            probe = self._send(context, max(self.callers, PROBE_REQUESTS))
        context.requests[self.name] = request_count(probe["requests_per_s"], self.callers, seconds)

    def run(self, context: MeasurementContext, seconds: float) -> Figures:
        """Send as many requests as the warm-up has chosen."""
        with Client(self._server(context).server.grpc_url) as client:
            before = stages.read_statistics(client)
            figures = self._send(context, context.requests[self.name])
            figures["stages"] = stages.means_between(before, stages.read_statistics(client))
        return figures

    def _server(self, context: MeasurementContext) -> TritonContender:
        server = context.contenders[self.contender]
        assert isinstance(server, TritonContender)
        return server

    def _send(self, context: MeasurementContext, requests: int) -> Figures:
        inputs = context.scratch / f"{self.photos}-{self.images}-{self.labels}.json"
        if not inputs.exists():
            write_zero_shot_requests(inputs, context.scratch / self.photos, self.images, self.labels)
        load = perf_analyzer.measure(
            context.program,
            model=MODEL,
            grpc_url=self._server(context).server.grpc_url,
            inputs=inputs,
            shapes=[f"image:{self.images}", f"labels:{self.labels}"],
            callers=self.callers,
            requests=requests,
        )
        figures = asdict(load)
        figures["client_cpu_ms"] = figures.pop("cpu_ms")
        return {"images_per_s": load.requests_per_s * self.images, **figures}


def write_zero_shot_requests(path: Path, photos: Path, images: int, labels: int) -> None:
    """Write the requests of `clip_zero_shot` for perf_analyzer, with `images` photos each."""
    files = (file.read_bytes() for file in sorted(photos.iterdir()))
    texts = [label.encode() for label in workload.labels(labels)]
    perf_analyzer.write_image_requests(path, files, images, texts)


def request_count(requests_per_s: float, callers: int, seconds: float) -> int:
    """Return the number of requests for `seconds`: a multiple of the callers, at least two per caller."""
    return callers * max(2, round(requests_per_s * seconds / callers))


def http_figures(result: Mapping[str, Any]) -> Figures:
    """Convert the output of `http_load` to the same figures as those from perf_analyzer."""
    latencies_s, count = result["latencies_s"], len(result["latencies_s"])
    p50_ms, p95_ms, p99_ms = (float(value) * 1e3 for value in np.percentile(latencies_s, (50, 95, 99)))
    rate = count / result["seconds"]
    cpu_ms = result["cpu_s"] * 1e3 / count
    return {
        "images_per_s": rate,
        "requests_per_s": rate,
        "p50_ms": p50_ms,
        "p95_ms": p95_ms,
        "p99_ms": p99_ms,
        "client_cpu_ms": cpu_ms,
    }


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


CALLERS = (1, 4, 16, 64, 256)
LABELS = (1, 100, 1000)
ENCODER_BATCHES = (1, 4, 8, 16, 32, 64)
MEASUREMENTS: tuple[Measurement, ...] = (
    WorkerMeasurement("pipeline-1", "pipeline", "transformers pipeline, one by one", "pipeline", 1),
    WorkerMeasurement("pipeline-16", "pipeline", "transformers pipeline, batches of 16", "pipeline", 16),
    HttpMeasurement("fastapi", f"FastAPI around the pipeline, {HTTP_CALLERS} callers"),
    HttpMeasurement("litserve-1", f"LitServe, 1 worker, {HTTP_CALLERS} callers"),
    HttpMeasurement("litserve-2", f"LitServe, 2 workers, {HTTP_CALLERS} callers"),
    *(
        WorkerMeasurement(
            f"encoder-{batch}", "parts", f"vision encoder alone, batch {batch}", "encode", batch, 0.5
        )
        for batch in ENCODER_BATCHES
    ),
    WorkerMeasurement("decode", "parts", "decoding alone, all cores", "decode", DECODE_BATCH, 0.5),
    WorkerMeasurement("decode-1", "parts", "decoding alone, one core", "decode", 1, 0.25),
    *(TritonMeasurement(f"callers-{callers}", callers) for callers in CALLERS),
    *(TritonMeasurement(f"labels-{labels}", 1, labels=labels) for labels in LABELS),
    TritonMeasurement("images-16x1", 1, images=16),
    TritonMeasurement("images-16x4", 4, images=16),
    TritonMeasurement("large-1", 1, photos="large"),
    TritonMeasurement("large-16", 16, photos="large"),
)
