"""Triton's own load generator, perf_analyzer: so cheap that it can share a machine with the server.

It is taken from the wheel of tritonclient 2.51.0, the last that carries it for glibc 2.34, and finds two
libraries among those of nvidia-pytriton.
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
    """perf_analyzer cannot be had, or has failed; the text says why."""


def install(directory: Path) -> Path:
    """Put perf_analyzer and its libraries into a directory, unless they are there, and return the program.

    Raises:
        PerfAnalyzerError: No wheel for this platform, or no network.
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
                f"cannot download {WHEEL}, which carries perf_analyzer: {done.stderr.strip()}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            member = next(name for name in wheel.namelist() if name.endswith("/bin/perf_analyzer"))
            partial = directory / "perf_analyzer.partial"
            partial.write_bytes(wheel.read(member))
    partial.chmod(0o755)
    partial.rename(program)
    return program


def _library(name: str) -> Path:
    """The file of nvidia-pytriton that is a library under another name, as libb64-98cb6333.so.0d."""
    spec = importlib.util.find_spec("pytriton")
    base, _, suffix = name.partition(".")
    if spec is not None and spec.submodule_search_locations:
        libraries = Path(spec.submodule_search_locations[0]).parent / "nvidia_pytriton.libs"
        found = sorted(libraries.glob(f"{base}-*.{suffix}*"))
        if found:
            return found[0]
    raise PerfAnalyzerError(f"{name} is missing, which comes with nvidia-pytriton: run 'make install'")


def write_images(
    path: Path, images: Iterable[bytes], images_a_request: int, labels: Sequence[bytes] = ()
) -> int:
    """Write the requests of an image model, as `write_requests` does.

    Args:
        path: JSON file to write.
        images: Encoded files. Those that are too few for a last request are left out.
        images_a_request: How many each request holds.
        labels: What each request ranks them against, UTF-8; none for a model that takes images only.

    Returns:
        The number of requests.
    """
    files = iter(images)
    groups = iter(lambda: list(islice(files, images_a_request)), [])
    rest = {"labels": labels} if labels else {}
    whole = (group for group in groups if len(group) == images_a_request)
    return write_requests(path, ({"image": group, **rest} for group in whole))


def write_requests(path: Path, requests: Iterable[Mapping[str, Sequence[bytes]]]) -> int:
    """Write requests as perf_analyzer reads them; it sends them again and again.

    Args:
        path: JSON file to write.
        requests: The elements of each BYTES input of each request, by the input's name.

    Returns:
        The number of requests.
    """
    entries = [{name: _tensor(elements) for name, elements in request.items()} for request in requests]
    path.write_text(json.dumps({"data": entries}), encoding="utf-8")
    return len(entries)


def _tensor(elements: Sequence[bytes]) -> dict[str, Any]:
    content = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    return {"b64": base64.b64encode(content).decode(), "shape": [len(elements)]}


@dataclass(frozen=True)
class Load:
    """What perf_analyzer measured.

    Attributes:
        requests_per_s: Requests a second, from the first one sent to the last one answered.
        p50_ms: Median latency of a request.
        p95_ms: Its 95th percentile.
        p99_ms: Its 99th percentile.
        cpu_ms: CPU time of perf_analyzer for a request, its start and the reading of the requests included.
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
) -> Load:
    """Send so many requests from so many callers at a time, over gRPC.

    Args:
        program: From `install`.
        model: The model to call.
        grpc_url: `host:port`.
        inputs: JSON file, as from `write_requests`.
        shapes: Of the inputs, as `image:16`.
        callers: Requests in flight.
        requests: How many to send.
        timeout_s: When to give up.

    Returns:
        Throughput, latencies and the load generator's own cost.

    Raises:
        PerfAnalyzerError: With what it printed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        profile = Path(scratch) / "profile.json"
        command = [str(program), "-m", model, "-u", grpc_url, "-i", "grpc", "-b", "1"]
        command += ["--input-data", str(inputs), "--concurrency-range", str(callers)]
        command += ["--request-count", str(requests), "--profile-export-file", str(profile)]
        # With a thread a caller, an answer can come before all have started: that one it then awaits forever.
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
            raise PerfAnalyzerError(f"perf_analyzer did not end within {timeout_s:.0f} s") from error
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode or not profile.exists():
            raise PerfAnalyzerError(f"perf_analyzer failed: {(done.stdout + done.stderr)[-1000:]}")
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return summarise(profile.read_bytes(), cpu_s * 1e3 / requests)


def summarise(profile: bytes, cpu_ms: float) -> Load:
    """Reads the times of all requests out of what perf_analyzer exports.

    Its own table will not do: it divides by a duration that it rounds up to whole seconds. The export is no
    valid JSON where a request holds bytes that are no UTF-8, so only the times are looked for.

    Args:
        profile: The exported file.
        cpu_ms: For `Load`.
    """
    starts = [int(found) for found in re.findall(rb'"timestamp":(\d+)', profile)]
    ends = [int(found) for found in re.findall(rb'"response_timestamps":\[(\d+)', profile)]
    if not starts or len(starts) != len(ends):
        raise PerfAnalyzerError(f"perf_analyzer sent {len(starts)} requests and got {len(ends)} answers")
    latencies_ms = [(end - start) / 1e6 for start, end in zip(starts, ends, strict=True)]
    p50_ms, p95_ms, p99_ms = map(float, np.percentile(latencies_ms, (50, 95, 99)))
    return Load(len(starts) / (max(ends) - min(starts)) * 1e9, p50_ms, p95_ms, p99_ms, cpu_ms)


def _library_path(program: Path) -> str:
    """The program's own directory, where the links are, and those of the libraries that they point to."""
    directories = {str((program.parent / name).resolve().parent) for name in LIBRARIES}
    return ":".join([str(program.parent), *sorted(directories)])
