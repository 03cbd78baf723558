"""How many cores this process may use: those it is bound to, or the share that its control group grants.

A container with a limit of CPU time sees all cores of its host. A thread on each of them would use up at once
the time that it is granted, and then wait. Knows nothing of Triton.

Importing this module also makes torch's OpenMP threads sleep while they wait. Models import it before torch,
which loads OpenMP. By default the threads spin, and keep the cores from decoding and from the other encoder.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

CGROUP = Path("/sys/fs/cgroup")
"""Where a container sees its own control group."""


def available_cores(cgroup: Path = CGROUP) -> int:
    """The number of cores, at least 1: a granted share of 2.5 counts as 3."""
    granted = _quota(cgroup / "cpu.max") or _quota(cgroup / "cpu" / "cpu.cfs_quota_us")
    bound = len(os.sched_getaffinity(0))
    return max(1, min(bound, math.ceil(granted))) if granted else bound


def _quota(path: Path) -> float | None:
    """The cores that a control group grants: version 2 has quota and period in one file, version 1 in two."""
    try:
        words = path.read_text(encoding="ascii").split()
        if path.name == "cpu.cfs_quota_us":
            words += (path.parent / "cpu.cfs_period_us").read_text(encoding="ascii").split()
        quota, period = float(words[0]), float(words[1])
    except (OSError, ValueError, IndexError):  # "max": no limit
        return None
    return quota / period if quota > 0 and period > 0 else None
