"""The server's processes: which they are, what memory they hold, and whether anything waits inside them."""

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
INSIDE = re.compile(
    r"^(?:nv_inference_pending_request_count|tritonclip_requests_executing)\{[^}]*\} (\S+)$", re.MULTILINE
)
SETTLE_TIMEOUT_S = 30.0


class Process(NamedTuple):
    """One process of a server.

    Attributes:
        started: Clock ticks after boot, so that a reused id is told apart.
        name: "tritonserver", or the model that a stub serves.
    """

    pid: int
    started: int
    name: str


class Vitals(NamedTuple):
    """What a server holds at one moment.

    Attributes:
        private_kib: Memory of each process that is no shared region and no file; such a region grows to the
            largest batch it has held and stays so.
        regions: Sizes of the shared-memory files, by name.
        inside: Requests that wait or execute, as the metrics say.
    """

    private_kib: dict[Process, int]
    regions: dict[str, int]
    inside: float


def take(server: EmbeddedTriton) -> Vitals:
    """Reads a server's vitals, once nothing is inside it or `SETTLE_TIMEOUT_S` are over."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while (inside := _inside(server)) and time.monotonic() < deadline:
        time.sleep(0.2)
    found = {_process(pid): _private_kib(pid) for pid in _family(server.pid)}
    regions = {region for process in found for region in _regions(process.pid)}
    sizes = {region: Path(region).stat().st_size for region in regions if Path(region).exists()}
    return Vitals(found, sizes, inside)


def processes(server: EmbeddedTriton) -> set[Process]:
    """The server and its stubs."""
    return {_process(pid) for pid in _family(server.pid)}


def _inside(server: EmbeddedTriton) -> float:
    return sum(map(float, INSIDE.findall(server.metrics())))


def _family(pid: int) -> list[int]:
    """A process and its children."""
    return [pid, *(child for child in _pids() if _stat(child)[1] == str(pid))]


def _pids() -> Iterator[int]:
    yield from (int(path.name) for path in PROC.glob("[0-9]*"))


def _stat(pid: int) -> list[str]:
    """The fields of `stat` behind the command: state, parent, ..."""
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
