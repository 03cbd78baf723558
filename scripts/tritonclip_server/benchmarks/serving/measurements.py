"""What is measured, one entry a line of the result, and how each is warmed up and run."""

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
"""Of one run: `images_per_s`, where there are requests `requests_per_s`, `p50_ms`, `p95_ms`, `p99_ms` and the
load generator's `client_cpu_ms` a request, for the served system `stages` as of `stages.between`."""


@dataclass
class Bench:
    """What measurements need.

    Attributes:
        contenders: Those that run, by name.
        scratch: Folder with `photos`, `large` and `labels.json`, and for files made on the way.
        program: perf_analyzer.
        requests: How many requests each measurement sends, by its name; set by its warm-up, so that each
            round sends as many.
    """

    contenders: Mapping[str, Contender]
    scratch: Path
    program: Path
    requests: dict[str, int] = field(default_factory=dict)


class Measurement(Protocol):
    """One line of the result."""

    @property
    def name(self) -> str:
        """Names it in `--only` and in the result."""

    @property
    def contender(self) -> str:
        """Whom it measures."""

    @property
    def title(self) -> str:
        """What it is, for people."""

    def warm_up(self, bench: Bench, seconds: float) -> None:
        """Whatever is done once only, and a choice of how much makes up so many seconds."""

    def run(self, bench: Bench, seconds: float) -> Figures:
        """Measures for about so many seconds."""


@dataclass(frozen=True)
class WorkerRun:
    """A part or the pipeline in a worker: batches of images until the time is over."""

    name: str
    contender: str
    title: str
    part: str
    batch: int
    share: float = 1.0
    """Of the seconds of a measurement: the parts are steadier than servers."""

    def warm_up(self, bench: Bench, seconds: float) -> None:
        """One batch."""
        self.run(bench, 0)

    def run(self, bench: Bench, seconds: float) -> Figures:
        """See `worker.timed`."""
        worker = bench.contenders[self.contender]
        assert isinstance(worker, WorkerContender)
        return {**worker.command(part=self.part, batch=self.batch, seconds=seconds * self.share)}


@dataclass(frozen=True)
class HttpRun:
    """A server with one image a request."""

    name: str
    title: str

    @property
    def contender(self) -> str:
        """Named as the measurement."""
        return self.name

    def warm_up(self, bench: Bench, seconds: float) -> None:
        """Two rounds of all callers; the second tells how fast it is."""
        self._send(bench, HTTP_CALLERS)
        probe = self._send(bench, HTTP_CALLERS)
        bench.requests[self.name] = request_count(probe["requests_per_s"], HTTP_CALLERS, seconds)

    def run(self, bench: Bench, seconds: float) -> Figures:
        """Sends as many requests as the warm-up chose."""
        return self._send(bench, bench.requests[self.name])

    def _send(self, bench: Bench, requests: int) -> Figures:
        server = bench.contenders[self.contender]
        assert isinstance(server, HttpContender)
        command = [
            sys.executable,
            "-m",
            "tritonclip_server.benchmarks.serving.http_load",
            f"{server.url}/predict",
        ]
        command += ["--photos", str(bench.scratch / "photos"), "--labels", str(bench.scratch / "labels.json")]
        command += ["--callers", str(HTTP_CALLERS), "--requests", str(requests)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the load for {self.name} failed: {done.stderr[-2000:]}\n{server.failure()}")
        return http_figures(json.loads(done.stdout))


@dataclass(frozen=True)
class TritonRun:
    """This system, over gRPC, under the load of perf_analyzer."""

    name: str
    callers: int
    labels: int = workload.LABEL_COUNT
    images: int = 1
    photos: str = "photos"
    """Folder in `Bench.scratch`."""

    @property
    def contender(self) -> str:
        """The embedded server."""
        return "triton"

    @property
    def title(self) -> str:
        """Like "this system, 16 callers, 100 labels"; what is as in most measurements is left out."""
        parts = ["this system", _count(self.callers, "caller")]
        if self.labels != workload.LABEL_COUNT:
            parts.append(_count(self.labels, "label"))
        if self.images != 1:
            parts.append(f"{self.images} images a request")
        if self.photos == "large":
            parts.append("photos of {} x {}".format(*workload.LARGE_PHOTO_SIZE))
        return ", ".join(parts)

    def warm_up(self, bench: Bench, seconds: float) -> None:
        """Sends what the label cache needs, and then learns how fast it is."""
        probe = self._send(bench, max(self.callers, PROBE_REQUESTS))
        if probe["p50_ms"] < seconds * 500:  # A first try on cold caches says little, but a slow one must do.
            probe = self._send(bench, max(self.callers, PROBE_REQUESTS))
        bench.requests[self.name] = request_count(probe["requests_per_s"], self.callers, seconds)

    def run(self, bench: Bench, seconds: float) -> Figures:
        """Sends as many requests as the warm-up chose."""
        with Client(self._server(bench).server.grpc_url) as client:
            before = stages.read_statistics(client)
            figures = self._send(bench, bench.requests[self.name])
            figures["stages"] = stages.between(before, stages.read_statistics(client))
        return figures

    def _server(self, bench: Bench) -> TritonContender:
        server = bench.contenders[self.contender]
        assert isinstance(server, TritonContender)
        return server

    def _send(self, bench: Bench, requests: int) -> Figures:
        inputs = bench.scratch / f"{self.photos}-{self.images}-{self.labels}.json"
        if not inputs.exists():
            write_requests(inputs, bench.scratch / self.photos, self.images, self.labels)
        load = perf_analyzer.measure(
            bench.program,
            model=MODEL,
            grpc_url=self._server(bench).server.grpc_url,
            inputs=inputs,
            shapes=[f"image:{self.images}", f"labels:{self.labels}"],
            callers=self.callers,
            requests=requests,
        )
        figures = asdict(load)
        figures["client_cpu_ms"] = figures.pop("cpu_ms")
        return {"images_per_s": load.requests_per_s * self.images, **figures}


def write_requests(path: Path, photos: Path, images: int, labels: int) -> None:
    """Writes the requests of `clip_zero_shot` for perf_analyzer: each photo once, so many a request."""
    files = (file.read_bytes() for file in sorted(photos.iterdir()))
    texts = [label.encode() for label in workload.labels(labels)]
    perf_analyzer.write_images(path, files, images, texts)


def request_count(requests_per_s: float, callers: int, seconds: float) -> int:
    """Requests for so many seconds: a multiple of the callers, two for each at least."""
    return callers * max(2, round(requests_per_s * seconds / callers))


def http_figures(result: Mapping[str, Any]) -> Figures:
    """What `http_load` prints, in the figures that perf_analyzer's load has too."""
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
    WorkerRun("pipeline-1", "pipeline", "transformers pipeline, one by one", "pipeline", 1),
    WorkerRun("pipeline-16", "pipeline", "transformers pipeline, batches of 16", "pipeline", 16),
    HttpRun("fastapi", f"FastAPI around the pipeline, {HTTP_CALLERS} callers"),
    HttpRun("litserve-1", f"LitServe, 1 worker, {HTTP_CALLERS} callers"),
    HttpRun("litserve-2", f"LitServe, 2 workers, {HTTP_CALLERS} callers"),
    *(
        WorkerRun(f"encoder-{batch}", "parts", f"vision encoder alone, batch {batch}", "encode", batch, 0.5)
        for batch in ENCODER_BATCHES
    ),
    WorkerRun("decode", "parts", "decoding alone, all cores", "decode", DECODE_BATCH, 0.5),
    WorkerRun("decode-1", "parts", "decoding alone, one core", "decode", 1, 0.25),
    *(TritonRun(f"callers-{callers}", callers) for callers in CALLERS),
    *(TritonRun(f"labels-{labels}", 1, labels=labels) for labels in LABELS),
    TritonRun("images-16x1", 1, images=16),
    TritonRun("images-16x4", 4, images=16),
    TritonRun("large-1", 1, photos="large"),
    TritonRun("large-16", 16, photos="large"),
)
