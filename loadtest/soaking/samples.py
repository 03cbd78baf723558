"""Sample a running Triton: memory, file handles, threads, shared memory, pending requests, label cache.

Memory is read from /proc by kind. A leak shows in private memory. The kernel maps and drops library pages
(`file`) as needed, and several processes share the regions (`shm`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path

import psutil  # type: ignore[import-untyped]

PROC = Path("/proc")
SHARED_MEMORY = Path("/dev/shm")
STUB = "triton_python_backend_stub"
WORKER = "clip_worker.py"
"""Program of the worker processes of image_preprocess, which start and end with the files they decode."""
REGION = "triton_python_backend_shm_region_"
INSTANCE = re.compile(r"\w+_\d+_\d+")
KIB_LINE = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)
METRIC = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
PUBLIC_MODELS = re.compile(r'model="clip_\w+"')
SUMS = {
    "pending": "nv_inference_pending_request_count",
    "executing": "tritonclip_requests_executing",
    "label_cache_entries": "tritonclip_label_cache_entries",
    "label_cache_bytes": "tritonclip_label_cache_bytes",
    "label_cache_evictions": "tritonclip_label_cache_evictions_total",
}
"""Figures that sum a metric over models and instances."""
PUBLIC_SUMS = {
    "succeeded": "nv_inference_request_success",
    "failed": "nv_inference_request_failure",
    "duration_us": "nv_inference_request_duration_us",
}
"""Figures that sum a metric over the public models."""


class Sampler:
    """Sampler of a server and its stub processes.

    Args:
        pid: Process id of `tritonserver`.
        metrics: Returns the server's metrics in Prometheus' text format.
    """

    def __init__(self, pid: int, metrics: Callable[[], str]) -> None:
        self._pid, self._metrics = pid, metrics
        self._started_s = time.monotonic()

    def sample(self) -> dict[str, float]:
        """Return one row: `time_s` since the creation of the sampler, and all figures by name.

        An exited process has no figures. A server that does not respond has no metrics.
        """
        row = {"time_s": time.monotonic() - self._started_s}
        try:
            server = psutil.Process(self._pid)
            members = [server, *server.children(recursive=True)]
        except psutil.NoSuchProcess:
            return row
        regions: set[str] = set()
        for process in members:
            try:
                command = process.cmdline()
                if any(part.endswith(WORKER) for part in command):
                    continue
                name = process_name(command)
                figures = process_figures(process)
            except (psutil.Error, OSError):  # it has just exited
                continue
            regions.update(part for part in command if part.startswith(REGION))
            row |= {f"{name}.{figure}": value for figure, value in figures.items()}
        row["regions"], row["regions_bytes"] = len(regions), sum(map(_file_bytes, regions))
        try:
            return row | metric_figures(self._metrics())
        except (OSError, HTTPException):
            return row


def process_name(command: list[str]) -> str:
    """Return the model instance of a stub (`text_encoder_0_0`), or the program name of another process."""
    program = Path(command[0]).name if command else "unknown"
    if program != STUB:
        return program
    return next((part for part in command[1:] if INSTANCE.fullmatch(part)), program)


def process_figures(process: psutil.Process) -> dict[str, float]:
    """Return process id, start time, memory by kind, file handles and threads of a process."""
    directory = PROC / str(process.pid)
    status = kib_lines((directory / "status").read_text(encoding="utf-8"))
    rollup = kib_lines((directory / "smaps_rollup").read_text(encoding="utf-8"))
    return {
        "pid": process.pid,
        "started_s": process.create_time(),
        "private_bytes": status["RssAnon"] + status["VmSwap"],
        "resident_bytes": status["RssAnon"] + status["RssFile"],
        "pss_bytes": rollup["Pss"],
        "uss_bytes": rollup["Private_Clean"] + rollup["Private_Dirty"],
        "shm_bytes": status["RssShmem"],
        "handles": process.num_fds(),
        "threads": process.num_threads(),
    }


def kib_lines(text: str) -> dict[str, int]:
    """Return the kB figures of a /proc file, in bytes."""
    return {name: 1024 * int(value) for name, value in KIB_LINE.findall(text)}


def metric_figures(text: str) -> dict[str, float]:
    """Return the sums of SUMS and PUBLIC_SUMS."""
    series = list(_series(text))
    row = {
        figure: sum(value for name, _, value in series if name == metric) for figure, metric in SUMS.items()
    }
    for figure, metric in PUBLIC_SUMS.items():
        row[figure] = sum(
            value for name, labels, value in series if name == metric and PUBLIC_MODELS.search(labels)
        )
    return row


def _series(text: str) -> Iterator[tuple[str, str, float]]:
    for name, labels, value in METRIC.findall(text):
        yield name, labels, float(value)


def _file_bytes(region: str) -> int:
    try:
        return 512 * (SHARED_MEMORY / region).stat().st_blocks
    except FileNotFoundError:
        return 0
