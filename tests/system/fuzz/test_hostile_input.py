"""Thousands of hostile inputs over both protocols: each gets a valid answer, and the server stays unharmed.

`make test-system` sends the same few inputs each time. `make fuzz` sends more, with a seed that it prints.
"""

from __future__ import annotations

import os
import random
import zlib

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.system.fuzz.hostile_bodies import BODIES
from tests.system.fuzz.hostile_requests import KINDS
from tests.system.fuzz.senders import BATCH
from tests.system.fuzz.target import Target
from tests.system.fuzz.wire import Request

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
SHORT = 720
LONG = int(os.environ.get("FUZZ_EXAMPLES", "15000"))
LONG_SEED = int(os.environ.get("FUZZ_SEED", random.SystemRandom().randrange(2**31)))
PARTS = ("warm-up", "first half", "second half")
CASES = [(kind, protocol) for kind in (*KINDS, "bodies") for protocol in ("grpc", "http")]
MAX_GROWTH = 0.05
"""Relative growth of a process's memory between the ends of the two halves."""
MAX_REGION_GROWTH = 0.15
"""Relative growth of the shared memory. Triton never shrinks a region below the largest batch in it."""
SLACK_KIB = 8 * 1024
"""Twice the variation of a process's memory that was measured when the same inputs were repeated."""


def attack(target: Target, part: str, kind: str, protocol: str, examples: int, first_seed: int) -> None:
    """Send the inputs of one kind and protocol in a part."""
    strategy = BODIES[protocol]() if kind == "bodies" else KINDS[kind]()

    @seed(zlib.crc32(f"{first_seed} {part} {kind} {protocol}".encode()))
    @settings(
        max_examples=max(3, examples // len(PARTS) // len(CASES) // BATCH),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(st.lists(strategy, min_size=BATCH, max_size=BATCH))
    def send(batch: list[Request | bytes]) -> None:
        target.attack(kind, protocol, batch)

    send()


def run(target: Target, examples: int, first_seed: int) -> None:
    """Send the inputs of all kinds in all parts, and compare the server before and after."""
    print(f"FUZZ_SEED={first_seed} FUZZ_EXAMPLES={examples}")  # noqa: T201  # pytest shows it if the test fails
    for part in PARTS:
        for kind, protocol in CASES:
            print(f"{part}: {kind} over {protocol}")  # noqa: T201
            attack(target, part, kind, protocol, examples, first_seed)
        target.end_part(part)
    check_unharmed(target)


def check_unharmed(target: Target) -> None:
    """Compare the vitals at the end of the parts."""
    start, before, after = (target.parts[part] for part in ("start", "first half", "second half"))
    report(target)
    assert not target.incidents
    assert set(after.private_kib) == set(start.private_kib)
    assert after.in_flight == 0
    assert set(after.regions) == set(start.regions)
    assert sum(after.regions.values()) <= sum(before.regions.values()) * (1 + MAX_REGION_GROWTH)
    grown = {
        process.name: f"{before.private_kib[process]} to {now} KiB"
        for process, now in after.private_kib.items()
        if now > before.private_kib[process] * (1 + MAX_GROWTH) + SLACK_KIB
    }
    assert not grown


def report(target: Target) -> None:
    """Print the number of inputs and of answers by status, and the memory after each part."""
    kinds = sorted({key[:2] for key in target.statuses})
    sent = sum(target.statuses.values())
    lines = [f"{sent} hostile inputs, {target.controls} healthy requests answered, {target.spoiled} spoiled"]
    for pair in kinds:
        counts = {key[2]: count for key, count in sorted(target.statuses.items()) if key[:2] == pair}
        counted = ", ".join(f"{status} {count}" for status, count in counts.items())
        lines.append(f"{pair[0]:>10} {pair[1]}: {sum(counts.values())} ({counted})")
    for process in target.parts["start"].private_kib:
        sizes = [f"{vitals.private_kib.get(process, 0)}" for vitals in target.parts.values()]
        lines.append(f"{process.name:>17} {process.pid}: {' '.join(sizes)} KiB")
    regions = [str(sum(vitals.regions.values()) >> 10) for vitals in target.parts.values()]
    lines.append(f"   shared regions: {' '.join(regions)} KiB, at: {', '.join(target.parts)}")
    print("\n" + "\n".join(lines))  # noqa: T201


def test_hostile_input_gets_valid_answers_and_harms_no_server(target: Target) -> None:
    run(target, SHORT, first_seed=0)


@pytest.mark.slow
def test_much_hostile_input_gets_valid_answers_and_harms_no_server(target: Target) -> None:
    run(target, LONG, LONG_SEED)
