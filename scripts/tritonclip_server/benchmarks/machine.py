"""Description of the machine that runs a benchmark."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import urllib.request
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tritonclip_server.paths import CHECKOUT

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "bf16")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Linux's names for the instructions that multiply bfloat16 matrices on x86 and Arm."""
PACKAGES = ("torch", "transformers", "pillow", "simplejpeg", "nvidia-pytriton", "litserve", "fastapi")


def describe() -> dict[str, Any]:
    """Return CPU, memory, versions and commit. Values that cannot be determined are empty."""
    flags = cpu_flags()
    memory = re.search(r"^MemTotal:\s*(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE)
    return {
        "cpu": cpu_name(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "bfloat16": has_bfloat16(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain") else ""),
    }


def cpu_name() -> str:
    """Return the name of the processor, or an empty string."""
    model = re.search(r"^model name\s*:\s*(.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return model[1] if model else platform.processor()


def cpu_flags() -> set[str]:
    """Return the names of the CPU's instruction sets, or an empty set if Linux does not list them."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return set(found[1].split()) if found else set()


def has_bfloat16() -> bool:
    """Return whether the CPU has instructions for bfloat16 matrix products."""
    return not BFLOAT16_FLAGS.isdisjoint(cpu_flags())


def versions_in(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of packages that are installed for another Python."""
    program = "import json, sys; from importlib.metadata import version as v; "
    program += "print(json.dumps({name: v(name) for name in sys.argv[1:]}))"
    done = subprocess.run([str(python), "-c", program, *packages], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def triton_version(http_url: str) -> str:
    """Return the release of a running server."""
    with urllib.request.urlopen(f"http://{http_url}/v2", timeout=10) as reply:
        return str(json.load(reply)["version"])


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
