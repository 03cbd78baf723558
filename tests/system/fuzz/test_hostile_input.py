"""Thousands of hostile inputs through both protocols: each answered well, and the server unharmed.

`make test` sends some hundreds, always the same; `make fuzz` the long form, with a seed that it prints.
"""

from __future__ import annotations

import os
import random
import zlib

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.system.fuzz.fuzz_senders import BATCH
from tests.system.fuzz.fuzz_target import Target
from tests.system.fuzz.fuzz_wire import Request
from tests.system.fuzz.hostile_bodies import BODIES
from tests.system.fuzz.hostile_requests import KINDS

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
SHORT = 960
LONG = int(os.environ.get("FUZZ_EXAMPLES", "15000"))
LONG_SEED = int(os.environ.get("FUZZ_SEED", random.SystemRandom().randrange(2**31)))
PARTS = ("warm-up", "first half", "second half")
CASES = [
    (part, kind, protocol) for part in PARTS for kind in (*KINDS, "bodies") for protocol in ("grpc", "http")
]
GROWTH = 0.05
"""Of a process's memory between the ends of the halves."""
REGION_GROWTH = 0.15
"""Of the shared memory: Triton never shrinks a region, which is as large as the largest batch it has held."""
SLACK_KIB = 8 * 1024
"""Twice what a process was seen to go up and down by, between repetitions of the very same inputs."""


def run(target: Target, part: str, kind: str, protocol: str, examples: int, first_seed: int) -> None:
    """Sends one kind's share of a part."""
    strategy = BODIES[protocol]() if kind == "bodies" else KINDS[kind]()

    @seed(zlib.crc32(f"{first_seed} {part} {kind} {protocol}".encode()))
    @settings(
        max_examples=max(3, examples // len(CASES) // BATCH),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(st.lists(strategy, min_size=BATCH, max_size=BATCH))
    def attack(batch: list[Request | bytes]) -> None:
        target.attack(kind, protocol, batch)

    print(f"FUZZ_SEED={first_seed} FUZZ_EXAMPLES={examples}")  # noqa: T201  Shown where the test fails.
    attack()
    if (kind, protocol) == CASES[-1][1:]:
        target.end_part(part)


def check_unharmed(target: Target) -> None:
    """Compares the vitals at the end of the parts."""
    start, before, after = (target.parts[part] for part in ("start", "first half", "second half"))
    report(target)
    assert not target.incidents
    assert set(after.private_kib) == set(start.private_kib)
    assert after.inside == 0
    assert set(after.regions) == set(start.regions)
    assert sum(after.regions.values()) <= sum(before.regions.values()) * (1 + REGION_GROWTH)
    grown = {
        process.name: f"{before.private_kib[process]} to {now} KiB"
        for process, now in after.private_kib.items()
        if now > before.private_kib[process] * (1 + GROWTH) + SLACK_KIB
    }
    assert not grown


def report(target: Target) -> None:
    """Prints what was sent and what came of it."""
    kinds = sorted({key[:2] for key in target.statuses})
    sent = sum(target.statuses.values())
    lines = [f"{sent} hostile inputs, {target.controls} healthy ones right, {target.struck} struck"]
    for pair in kinds:
        counts = {key[2]: count for key, count in sorted(target.statuses.items()) if key[:2] == pair}
        told = ", ".join(f"{status} {count}" for status, count in counts.items())
        lines.append(f"{pair[0]:>10} {pair[1]}: {sum(counts.values())} ({told})")
    for process in target.parts["start"].private_kib:
        sizes = [f"{vitals.private_kib.get(process, 0)}" for vitals in target.parts.values()]
        lines.append(f"{process.name:>17} {process.pid}: {' '.join(sizes)} KiB")
    regions = [str(sum(vitals.regions.values()) >> 10) for vitals in target.parts.values()]
    lines.append(f"   shared regions: {' '.join(regions)} KiB, at: {', '.join(target.parts)}")
    print("\n" + "\n".join(lines))  # noqa: T201


@pytest.mark.parametrize(("part", "kind", "protocol"), CASES)
def test_hostile_input_is_answered_well(target: Target, part: str, kind: str, protocol: str) -> None:
    run(target, part, kind, protocol, SHORT, first_seed=0)


def test_the_server_is_unharmed(target: Target) -> None:
    check_unharmed(target)


@pytest.mark.slow
@pytest.mark.parametrize(("part", "kind", "protocol"), CASES)
def test_much_hostile_input_is_answered_well(target: Target, part: str, kind: str, protocol: str) -> None:
    run(target, part, kind, protocol, LONG, LONG_SEED)


@pytest.mark.slow
def test_the_server_is_unharmed_after_much(target: Target) -> None:
    check_unharmed(target)
