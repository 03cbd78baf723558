"""Triton's own load generator, perf_analyzer: so cheap that it can share a machine with the server.

It is taken from the wheel of tritonclient 2.51.0, the last that carries it for glibc 2.34, and finds two
libraries among those of nvidia-pytriton.
"""

from __future__ import annotations

import base64
import csv
import importlib.util
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

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


def write_images(path: Path, images: Iterable[bytes], images_a_request: int) -> int:
    """Write the requests of an image model as perf_analyzer reads them; it sends them again and again.

    Args:
        path: JSON file to write.
        images: Encoded files. Those that are too few for a last request are left out.
        images_a_request: How many each request holds.

    Returns:
        The number of requests.
    """
    group: list[bytes] = []
    entries = []
    for image in images:
        group.append(struct.pack("<I", len(image)) + image)
        if len(group) == images_a_request:
            content = base64.b64encode(b"".join(group)).decode()
            entries.append({"image": {"b64": content, "shape": [images_a_request]}})
            group = []
    path.write_text(json.dumps({"data": entries}), encoding="utf-8")
    return len(entries)


def requests_per_second(
    program: Path,
    *,
    model: str,
    grpc_url: str,
    inputs: Path,
    shapes: Sequence[str],
    callers: int,
    requests: int,
) -> float:
    """Send so many requests from so many callers at a time, over gRPC, and measure the throughput.

    Args:
        program: From `install`.
        model: The model to call.
        grpc_url: `host:port`.
        inputs: JSON file, as from `write_images`.
        shapes: Of the inputs, as `image:16`.
        callers: Requests in flight.
        requests: How many to send.

    Returns:
        Requests a second.

    Raises:
        PerfAnalyzerError: With what it printed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "result.csv"
        command = [str(program), "-m", model, "-u", grpc_url, "-i", "grpc", "-b", "1"]
        command += ["--input-data", str(inputs), "--concurrency-range", str(callers)]
        command += ["--request-count", str(requests), "-f", str(table)]
        for shape in shapes:
            command += ["--shape", shape]
        environment = {**os.environ, "LD_LIBRARY_PATH": _library_path(program)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode or not table.exists():
            raise PerfAnalyzerError(f"perf_analyzer failed: {(done.stdout + done.stderr)[-1000:]}")
        with table.open(encoding="utf-8") as file:
            return float(next(csv.DictReader(file))["Inferences/Second"])


def _library_path(program: Path) -> str:
    """The program's own directory, where the links are, and those of the libraries that they point to."""
    directories = {str((program.parent / name).resolve().parent) for name in LIBRARIES}
    return ":".join([str(program.parent), *sorted(directories)])
