"""The CPU: the cores that this process may use, and its instruction sets.

A container with a CPU limit sees every core of its host. With one thread per visible core it would spend its
quota early in each scheduling period and then be throttled.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""Mount point of the container's own control group."""
CPUINFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Linux's names for the instructions that multiply bfloat16 matrices on x86 and Arm."""


def available_cores(cgroup: Path = CGROUP) -> int:
    """Return the number of cores that this process may use, at least 1.

    The result is the smaller of the CPU affinity and the control group's quota. A quota of 2.5 counts as 3.
    """
    bound = len(os.sched_getaffinity(0))
    quota = _quota(cgroup / "cpu.max") or _quota(cgroup / "cpu" / "cpu.cfs_quota_us")
    return max(1, min(bound, math.ceil(quota))) if quota else bound


def _quota(path: Path) -> float | None:
    """Read a quota in cores. Version 2 keeps quota and period in one file, version 1 in two."""
    try:
        words = path.read_text(encoding="ascii").split()
        if path.name == "cpu.cfs_quota_us":
            words += (path.parent / "cpu.cfs_period_us").read_text(encoding="ascii").split()
        quota, period = float(words[0]), float(words[1])
    except (OSError, ValueError, IndexError):  # "max" means no limit
        return None
    return quota / period if quota > 0 and period > 0 else None


def cpu_has_bfloat16() -> bool:
    """Return whether this CPU has instructions for bfloat16 matrix products."""
    return not BFLOAT16_FLAGS.isdisjoint(cpu_flags())


def cpu_flags() -> set[str]:
    """Return the names of this CPU's instruction sets, or an empty set if Linux does not list them."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return set(next((line.split() for line in lines if line.startswith(("flags", "Features"))), []))
