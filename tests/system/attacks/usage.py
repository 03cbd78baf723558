"""CPU time and peak memory of processes and their children between two moments."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)
RESET_PEAK = "5"
"""Written to `clear_refs`, it sets the peak of a process to its present memory; see proc(5)."""


@dataclass
class Usage:
    """What the processes used.

    Attributes:
        cpu_s: CPU seconds of all processes, and of their children that have ended.
        peak_mib: Largest resident memory of each process in MiB, with shared memory, by name and id.
    """

    cpu_s: float = 0.0
    peak_mib: dict[str, float] = field(default_factory=dict)


@contextlib.contextmanager
def measure(*roots: int) -> Iterator[Usage]:
    """Measure the trees of these processes while the block runs."""
    usage = Usage()
    for process in _trees(roots):
        Path(f"/proc/{process.pid}/clear_refs").write_text(RESET_PEAK)
    before = _cpu_s(roots)
    yield usage
    usage.cpu_s = _cpu_s(roots) - before
    for process in _trees(roots):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            usage.peak_mib[f"{_name(process)} {process.pid}"] = int(PEAK.findall(status)[0]) / 1024


def _trees(roots: tuple[int, ...]) -> list[psutil.Process]:
    found = []
    for root in roots:
        process = psutil.Process(root)
        found += [process, *process.children(recursive=True)]
    return found


def _cpu_s(roots: tuple[int, ...]) -> float:
    total = 0.0
    for process in _trees(roots):
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def _name(process: psutil.Process) -> str:
    command = process.cmdline()
    if command[0].endswith("_stub"):
        return Path(command[1]).parts[-3]
    return process.name()
