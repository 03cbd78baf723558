"""perf_analyzer, Triton's load generator, which is cheap enough to share a machine with the server.

It comes from the wheel of tritonclient 2.51.0, the last one that contains it for glibc 2.34. Two of its
libraries come with nvidia-pytriton.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

WHEEL = "tritonclient==2.51.0"
LIBRARIES = ("libb64.so.0d", "libcudart.so.12")


class PerfAnalyzerError(RuntimeError):
    """perf_analyzer could not be installed, or it failed. The message contains the reason."""


def install(directory: Path) -> Path:
    """Install perf_analyzer and its libraries in a directory if necessary, and return the program.

    Raises:
        PerfAnalyzerError: There is no wheel for this platform, or no network.
    """
    program = directory / "perf_analyzer"
    if program.exists():
        return program
    directory.mkdir(parents=True, exist_ok=True)
    for name in LIBRARIES:
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to(_library(name))
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--platform", "manylinux1_x86_64", "--dest", scratch, WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            raise PerfAnalyzerError(
                f"cannot download {WHEEL}, which contains perf_analyzer: {done.stderr.strip()}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            member = next(name for name in wheel.namelist() if name.endswith("/bin/perf_analyzer"))
            partial = directory / "perf_analyzer.partial"
            partial.write_bytes(wheel.read(member))
    partial.chmod(0o755)
    partial.rename(program)
    return program


def _library(name: str) -> Path:
    """Find a library in nvidia-pytriton, which adds a hash to its name, such as libb64-98cb6333.so.0d."""
    spec = importlib.util.find_spec("pytriton")
    base, _, suffix = name.partition(".")
    if spec is not None and spec.submodule_search_locations:
        libraries = Path(spec.submodule_search_locations[0]).parent / "nvidia_pytriton.libs"
        found = sorted(libraries.glob(f"{base}-*.{suffix}*"))
        if found:
            return found[0]
    raise PerfAnalyzerError(f"{name} is missing; it comes with nvidia-pytriton: pip install nvidia-pytriton")


def write_image_requests(
    path: Path, images: Iterable[bytes], images_per_request: int, labels: Sequence[bytes] = ()
) -> int:
    """Write the requests of an image model.

    Args:
        path: JSON file to write.
        images: Encoded files. Files left over after the last complete request are ignored.
        images_per_request: Number of images per request.
        labels: UTF-8 labels of each request; empty for a model that takes images only.

    Returns:
        Number of requests.
    """
    files = iter(images)
    groups = iter(lambda: list(islice(files, images_per_request)), [])
    rest = {"labels": labels} if labels else {}
    whole = (group for group in groups if len(group) == images_per_request)
    return write_requests(path, ({"image": group, **rest} for group in whole))


def write_requests(path: Path, requests: Iterable[Mapping[str, Sequence[bytes]]]) -> int:
    """Write requests in the format of perf_analyzer, which sends them repeatedly.

    Args:
        path: JSON file to write.
        requests: Elements of the BYTES inputs of each request, by name of the input.

    Returns:
        Number of requests.
    """
    entries = [{name: _tensor(elements) for name, elements in request.items()} for request in requests]
    path.write_text(json.dumps({"data": entries}), encoding="utf-8")
    return len(entries)


def _tensor(elements: Sequence[bytes]) -> dict[str, Any]:
    content = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    return {"b64": base64.b64encode(content).decode(), "shape": [len(elements)]}


@dataclass(frozen=True)
class LoadResult:
    """Throughput, latencies and cost of a load.

    Attributes:
        requests_per_s: Requests per second, from the first request to the last response.
        p50_ms: Median latency.
        p95_ms: 95th percentile of the latency.
        p99_ms: 99th percentile of the latency.
        cpu_ms: CPU time of perf_analyzer per request, including its start and the reading of the requests.
    """

    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms: float


def measure(
    program: Path,
    *,
    model: str,
    grpc_url: str,
    inputs: Path,
    shapes: Sequence[str],
    callers: int,
    requests: int,
    timeout_s: float = 600.0,
) -> LoadResult:
    """Send requests over gRPC with a fixed number in flight.

    Args:
        program: Path from `install`.
        model: Name of the model.
        grpc_url: `host:port`.
        inputs: JSON file from `write_requests`.
        shapes: Shapes of the inputs, such as `image:16`.
        callers: Requests in flight.
        requests: Number of requests.
        timeout_s: Time limit.

    Raises:
        PerfAnalyzerError: perf_analyzer failed or timed out. The message contains its output.
    """
    with tempfile.TemporaryDirectory() as scratch:
        profile = Path(scratch) / "profile.json"
        command = [str(program), "-m", model, "-u", grpc_url, "-i", "grpc", "-b", "1"]
        command += ["--input-data", str(inputs), "--concurrency-range", str(callers)]
        command += ["--request-count", str(requests), "--profile-export-file", str(profile)]
        # With one thread per caller, perf_analyzer can miss a response that arrives before all threads have
        # started, and then waits for it forever.
        command += ["--async"]
        for shape in shapes:
            command += ["--shape", shape]
        environment = {**os.environ, "LD_LIBRARY_PATH": _library_path(program)}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s
            )
        except subprocess.TimeoutExpired as error:
            raise PerfAnalyzerError(f"perf_analyzer did not finish within {timeout_s:.0f} s") from error
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode or not profile.exists():
            raise PerfAnalyzerError(f"perf_analyzer failed: {(done.stdout + done.stderr)[-1000:]}")
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return summarise(profile.read_bytes(), cpu_s * 1e3 / requests)


def summarise(profile: bytes, cpu_ms: float) -> LoadResult:
    """Compute the result from the times of all requests in the export of perf_analyzer.

    The table that perf_analyzer prints is not precise enough: it divides by a duration that is rounded up to
    whole seconds. The export is not valid JSON if a request contains bytes that are not UTF-8, so a pattern
    finds the times.

    Args:
        profile: Content of the exported file.
        cpu_ms: CPU time per request.
    """
    starts = [int(found) for found in re.findall(rb'"timestamp":(\d+)', profile)]
    ends = [int(found) for found in re.findall(rb'"response_timestamps":\[(\d+)', profile)]
    if not starts or len(starts) != len(ends):
        raise PerfAnalyzerError(f"perf_analyzer sent {len(starts)} requests and got {len(ends)} responses")
    latencies_ms = [(end - start) / 1e6 for start, end in zip(starts, ends, strict=True)]
    p50_ms, p95_ms, p99_ms = map(float, np.percentile(latencies_ms, (50, 95, 99)))
    return LoadResult(len(starts) / (max(ends) - min(starts)) * 1e9, p50_ms, p95_ms, p99_ms, cpu_ms)


def _library_path(program: Path) -> str:
    """Return the directories of the program, which contains links, and of the libraries they point to."""
    directories = {str((program.parent / name).resolve().parent) for name in LIBRARIES}
    return ":".join([str(program.parent), *sorted(directories)])
