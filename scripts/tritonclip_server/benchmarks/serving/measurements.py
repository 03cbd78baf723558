"""The measurements: how each is warmed up and run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tritonclip import Client
from tritonclip_server.benchmarks import workload
from tritonclip_server.benchmarks.serving import stages
from tritonclip_server.benchmarks.serving.contenders import (
    Contender,
    ServerContender,
    TritonContender,
    WorkerContender,
)

DECODE_BATCH = 16
PICTURES_CALLERS = 16
"""Callers of the measurements with other pictures than the photos of 640 x 480."""
WARM_UP_CALLERS = 16
DEFAULT, INT8 = "triton", "triton-int8"
"""Contenders of this system: with its defaults, and with `precision=int8`."""
INFINITY = "infinity"
PHOTOS, LARGE, MIX = "photos", "large", "mix"
"""Folders of pictures: photos of 640 x 480, photos of 12 megapixels, and `workload.mix`."""
PICTURES = {
    PHOTOS: "",
    LARGE: "photos of {} x {}".format(*workload.LARGE_PHOTO_SIZE),
    MIX: "mix of phone photos, thumbnails and screenshots",
}

Figures = dict[str, Any]
"""Result of one measurement.

- `images_per_s`, and `p50_ms` if anything was answered, always
- `p95_ms`, `p99_ms`, `client_cpu_ms`, the CPU time of the load generator per request, and `rejected`, the
  number of requests that were rejected or timed out, for servers
- `stages` from `stages.means_between`, for this system
"""


@dataclass
class MeasurementContext:
    """Contenders and inputs of a benchmark.

    Attributes:
        contenders: Started contenders by name.
        scratch: Folder with the folders of `PICTURES` that are measured, and for files of labels.
    """

    contenders: Mapping[str, Contender]
    scratch: Path


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

    @property
    def photos(self) -> str:
        """Folder of the pictures, one of `PICTURES`."""

    def warm_up(self, context: MeasurementContext) -> None:
        """Run once, for a short time."""

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
    what: str
    part: str
    batch: int
    share: float = 1.0
    photos: str = PHOTOS

    @property
    def title(self) -> str:
        """Description, with the pictures unless they are the default."""
        return _joined(self.what, PICTURES[self.photos])

    def warm_up(self, context: MeasurementContext) -> None:
        """Process one batch."""
        self.run(context, 0)

    def run(self, context: MeasurementContext, seconds: float) -> Figures:
        """Process batches; see `worker.timed`."""
        worker = context.contenders[self.contender]
        assert isinstance(worker, WorkerContender)
        photos = str(context.scratch / self.photos)
        return {
            **worker.command(part=self.part, batch=self.batch, seconds=seconds * self.share, photos=photos)
        }


@dataclass(frozen=True)
class ServerMeasurement:
    """A server with a number of callers, each with one request in flight.

    Attributes:
        what: Name of the server in the report.
        labels: Labels per request; 0 asks for image embeddings.
        images: Images per request.
    """

    name: str
    contender: str
    what: str
    callers: int
    labels: int = workload.LABEL_COUNT
    images: int = 1
    photos: str = PHOTOS

    @property
    def title(self) -> str:
        """Description such as "this system, 16 callers, 100 labels", without the default values."""
        labels = _count(self.labels, "label") if self.labels else "image embeddings"
        return _joined(
            self.what,
            _count(self.callers, "caller"),
            "" if self.labels == workload.LABEL_COUNT else labels,
            "" if self.images == 1 else f"{self.images} images per request",
            PICTURES[self.photos],
        )

    def warm_up(self, context: MeasurementContext) -> None:
        """Send one request from each of some callers, which also fills the caches of labels."""
        self._send(context, min(self.callers, WARM_UP_CALLERS), 0)

    def run(self, context: MeasurementContext, seconds: float) -> Figures:
        """Send requests for about `seconds`, and at least one from each caller."""
        server = context.contenders[self.contender]
        if not isinstance(server, TritonContender):
            return self._send(context, self.callers, seconds)
        with Client(server.server.grpc_url) as client:
            before = stages.read_statistics(client)
            figures = self._send(context, self.callers, seconds)
            figures["stages"] = stages.means_between(before, stages.read_statistics(client))
        return figures

    def _send(self, context: MeasurementContext, callers: int, seconds: float) -> Figures:
        server = context.contenders[self.contender]
        assert isinstance(server, ServerContender)
        command = [sys.executable, "-m", "tritonclip_server.benchmarks.serving.load", server.target]
        command += ["--api", server.api, "--photos", str(context.scratch / self.photos)]
        command += ["--images", str(self.images), "--callers", str(callers), "--seconds", str(seconds)]
        if self.labels:
            labels = context.scratch / f"labels-{self.labels}.json"
            labels.write_text(json.dumps(workload.labels(self.labels)), encoding="utf-8")
            command += ["--labels", str(labels)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the load for {self.name} failed: {done.stderr[-2000:]}\n{server.failure()}")
        return load_figures(json.loads(done.stdout), self.images)


def load_figures(result: Mapping[str, Any], images: int) -> Figures:
    """Compute the figures from the output of `load` with `images` per request."""
    latencies_s, rejected = result["latencies_s"], result["rejected"]
    figures: Figures = {
        "images_per_s": len(latencies_s) * images / result["seconds"],
        "client_cpu_ms": result["cpu_s"] * 1e3 / (len(latencies_s) + rejected),
        "rejected": rejected,
    }
    if latencies_s:
        for percent in (50, 95, 99):
            figures[f"p{percent}_ms"] = float(np.percentile(latencies_s, percent)) * 1e3
    return figures


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


CALLERS = (1, 16, 64)
LABELS = (100, 1000)
ENCODER_BATCHES = (1, 4, 8, 16, 32, 64)
SERVERS = {
    "fastapi": "FastAPI around the pipeline",
    "litserve-1": "LitServe, 1 worker",
    "litserve-2": "LitServe, 2 workers",
    DEFAULT: "this system",
    INT8: "this system in int8",
}
"""Zero-shot classifiers by contender, with their names in the report."""
EMBEDDERS = {INFINITY: "infinity", DEFAULT: "this system", INT8: "this system in int8"}
"""Servers of image embeddings by contender."""


def server_measurements(contender: str) -> list[ServerMeasurement]:
    """Return the measurements of a zero-shot classifier that all of them have."""
    what = SERVERS[contender]
    by_callers = [
        ServerMeasurement(f"{contender}-{callers}", contender, what, callers) for callers in CALLERS
    ]
    by_pictures = [
        ServerMeasurement(f"{contender}-{photos}", contender, what, PICTURES_CALLERS, photos=photos)
        for photos in (LARGE, MIX)
    ]
    return by_callers + by_pictures


MEASUREMENTS: tuple[Measurement, ...] = (
    WorkerMeasurement("pipeline-1", "pipeline", "transformers pipeline, one by one", "pipeline", 1),
    *(
        WorkerMeasurement(
            name, "pipeline", "transformers pipeline, batches of 16", "pipeline", 16, photos=photos
        )
        for name, photos in (("pipeline-16", PHOTOS), ("pipeline-large", LARGE), ("pipeline-mix", MIX))
    ),
    *(measurement for contender in SERVERS for measurement in server_measurements(contender)),
    *(
        ServerMeasurement(f"{contender}-embed-{callers}", contender, what, callers, labels=0)
        for contender, what in EMBEDDERS.items()
        for callers in CALLERS
    ),
    *(
        WorkerMeasurement(
            f"encoder-{batch}", "parts", f"vision encoder alone, batch {batch}", "encode", batch, 0.5
        )
        for batch in ENCODER_BATCHES
    ),
    WorkerMeasurement("decode", "parts", "decoding alone, all cores", "decode", DECODE_BATCH, 0.5),
    WorkerMeasurement("decode-1", "parts", "decoding alone, one core", "decode", 1, 0.25),
    *(
        ServerMeasurement(f"labels-{labels}", DEFAULT, SERVERS[DEFAULT], 1, labels=labels)
        for labels in LABELS
    ),
    ServerMeasurement("images-16x1", DEFAULT, SERVERS[DEFAULT], 1, images=16),
    ServerMeasurement("images-16x4", DEFAULT, SERVERS[DEFAULT], 4, images=16),
)
