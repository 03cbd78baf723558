"""Cores that a control group allows, and instruction sets that Linux lists."""

import os

import pytest

from clip_common import cpu
from clip_common.cpu import available_cores

BOUND = len(os.sched_getaffinity(0))


def write_files(directory, files):
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(content)
    return directory


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, BOUND),
        ({"cpu.max": "max 100000\n"}, BOUND),
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, min(BOUND, 2)),
        ({"cpu.max": "1000 100000\n"}, 1),
        ({"cpu.max": "9000000 100000\n"}, BOUND),
        ({"cpu.max": "nonsense"}, BOUND),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, BOUND),
        ({"cpu/cpu.cfs_quota_us": "100000\n"}, BOUND),
    ],
)
def test_available_cores_are_the_smaller_of_affinity_and_quota(tmp_path, files, cores):
    assert available_cores(write_files(tmp_path, files)) == cores


@pytest.mark.parametrize(
    ("listed", "flags", "bfloat16"),
    [
        (
            "processor\t: 0\nflags\t\t: sse avx512_bf16\nbugs\t: x\nflags\t\t: sse\n",
            {"sse", "avx512_bf16"},
            True,
        ),
        ("processor\t: 0\nFeatures\t: fp bf16\n", {"fp", "bf16"}, True),
        ("flags : sse avx2\n", {"sse", "avx2"}, False),
        ("processor\t: 0\n", set(), False),
        (None, set(), False),
    ],
)
def test_instruction_sets_are_those_of_the_first_core(tmp_path, monkeypatch, listed, flags, bfloat16):
    path = tmp_path / "cpuinfo"
    if listed is not None:
        path.write_text(listed)
    monkeypatch.setattr(cpu, "CPUINFO", path)
    assert cpu.cpu_flags() >= flags
    assert bool(cpu.cpu_flags()) is bool(flags)
    assert cpu.cpu_has_bfloat16() is bfloat16
