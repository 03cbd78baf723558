"""Processes of the server, their memory, and the requests in flight inside it."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tritonclip_server.serving.launcher import EmbeddedTriton

PROC = Path("/proc")
REGION = re.compile(r"(/dev/shm/\S+)")
IN_FLIGHT = re.compile(
    r"^(?:nv_inference_pending_request_count|tritonclip_requests_executing)\{[^}]*\} (\S+)$", re.MULTILINE
)
SETTLE_TIMEOUT_S = 300.0


class Process(NamedTuple):
    """One process of a server.

    Attributes:
        pid: Process id.
        started: Start of the process in clock ticks after boot, because ids are reused.
        name: "tritonserver", or the model that a stub serves.
    """

    pid: int
    started: int
    name: str


class Vitals(NamedTuple):
    """Memory and requests of a server at one moment.

    Attributes:
        private_kib: Anonymous memory of each process, without shared regions and mapped files.
        regions: Sizes of the shared-memory files by name, in bytes. A region never shrinks below the largest
            batch that it has held.
        in_flight: Requests that are queued or executing, according to the metrics.
    """

    private_kib: dict[Process, int]
    regions: dict[str, int]
    in_flight: float


def read_vitals(server: EmbeddedTriton) -> Vitals:
    """Read the vitals of a server once no request is in flight, or after `SETTLE_TIMEOUT_S` at the latest."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while (in_flight := _in_flight(server)) and time.monotonic() < deadline:
        time.sleep(0.2)
    found = {_process(pid): _private_kib(pid) for pid in _process_tree(server.pid)}
    regions = {region for process in found for region in _regions(process.pid)}
    sizes = {region: Path(region).stat().st_size for region in regions if Path(region).exists()}
    return Vitals(found, sizes, in_flight)


def processes(server: EmbeddedTriton) -> set[Process]:
    """Return the processes of the server and of its stubs."""
    return {_process(pid) for pid in _process_tree(server.pid)}


def _in_flight(server: EmbeddedTriton) -> float:
    return sum(map(float, IN_FLIGHT.findall(server.metrics())))


def _process_tree(pid: int) -> list[int]:
    """Return a process id and those of its children."""
    return [pid, *(child for child in _pids() if _stat(child)[1] == str(pid))]


def _pids() -> Iterator[int]:
    yield from (int(path.name) for path in PROC.glob("[0-9]*"))


def _stat(pid: int) -> list[str]:
    """Return the fields of `stat` after the command, which begin with the state and the parent."""
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return ["", ""]


def _process(pid: int) -> Process:
    command = (PROC / str(pid) / "cmdline").read_bytes().decode().split("\0")
    model = Path(command[1]).parts[-3] if command[0].endswith("_stub") else "tritonserver"
    return Process(pid, int(_stat(pid)[19]), model)


def _private_kib(pid: int) -> int:
    status = (PROC / str(pid) / "status").read_text(encoding="utf-8")
    return int(re.findall(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)[0])


def _regions(pid: int) -> set[str]:
    return set(REGION.findall((PROC / str(pid) / "maps").read_text(encoding="utf-8")))
