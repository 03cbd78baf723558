"""Runs the embedded server under mixed load for a while, and fails if anything grows: `soak.py --minutes 20`.

The load is gRPC and HTTP at once, at a share of what the server was found to hold at the start, with short
bursts above it, bad requests, and clients that hang up in mid-request. Memory, file handles, threads and
shared memory of every process of the server are sampled; the first fifth of the time is the warm-up. The
parts stand in `soak_*.py`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console

from soaking.hangups import HangUps
from soaking.judgment import GROWTH_SHARE, LOAD_ENDED, judge
from soaking.locust_run import (
    BURST_FACTOR,
    PROTOCOLS,
    USERS,
    Addresses,
    LoadError,
    Locust,
    burst_stages,
    unexpected,
)
from soaking.plots import write_picture
from soaking.report import SoakResult, show, write_samples, write_summary
from soaking.samples import Sampler
from soaking.sizes import meet_sizes
from tritonclip_server.paths import DEMO_CHECKPOINT, DEMO_IMAGES
from tritonclip_server.repository.prepare import main as prepare_weights
from tritonclip_server.serving.launcher import EmbeddedTriton, LaunchError, ServerOptions
from tritonclip_server.serving.signals import on_stop_signal

ROOT = Path(__file__).resolve().parent.parent

IMAGE = DEMO_IMAGES / "red_circle.jpg"
CACHE_BYTES = 2**19
"""Of the label cache: less than the load's labels take, so that it is soon full, and evicts all the time."""
CAPACITY_S = 10.0
BURSTS_AT = {"grpc": 0.3, "http": 0.8}
"""Where in each period the protocols' bursts begin: never both at once."""
SETTLE_S = 15.0


@dataclass(frozen=True)
class Soak:
    """What to run.

    Attributes:
        duration_s: Length of the load.
        sample_s: Seconds between samples.
        load_share: Rate between the bursts, as a share of what the server holds.
        hang_up_s: Seconds between clients that hang up.
        growth_share: Growth that is allowed after the warm-up, as a share.
        output: Folder for everything.
    """

    duration_s: float
    sample_s: float
    load_share: float
    hang_up_s: float
    growth_share: float
    output: Path


@click.command()
@click.option(
    "--minutes", default=20.0, show_default=True, type=click.FloatRange(min=0.5), help="Length of the load."
)
@click.option(
    "--repository",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A prepared model repository; its label cache should be full before the warm-up ends.  "
    "[default: the demo checkpoint with a small cache]",
)
@click.option(
    "--sample-every",
    type=click.FloatRange(min=0.2),
    help="Seconds between samples.  [default: a 240th of the time, at most 5]",
)
@click.option(
    "--load-share",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Rate between the bursts, as a share of what the server holds.",
)
@click.option("--hang-up-every", default=1.0, show_default=True, help="Seconds between clients that hang up.")
@click.option(
    "--growth-limit",
    default=GROWTH_SHARE,
    show_default=True,
    help="Growth after the warm-up that is allowed, as a share.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=ROOT / "build" / "soak",
    help="Folder for samples, summary and picture.  [default: build/soak]",
)
def main(
    minutes: float,
    repository: Path | None,
    sample_every: float | None,
    load_share: float,
    hang_up_every: float,
    growth_limit: float,
    output: Path,
) -> None:
    """Soaks the embedded server; exit code 1 if anything grew, was replaced, or was answered wrongly."""
    on_stop_signal()
    duration_s = 60 * minutes
    sample_s = sample_every or min(5.0, duration_s / 240)
    soak = Soak(duration_s, sample_s, load_share, hang_up_every, growth_limit, output)
    output.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            result = run(soak, repository or prepare(Path(scratch)), console)
    except (LaunchError, LoadError, ValueError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    write_summary(result, output)
    write_picture(result.rows, result.histories, output / "soak.png")
    show(result, console)
    console.print(f"written to {output}")
    sys.exit(bool(result.findings))


def prepare(scratch: Path) -> Path:
    """Writes the repository that is soaked where none is given."""
    repository = scratch / "models"
    cache = f"text_encoder.cache_bytes={CACHE_BYTES}"
    prepare_weights(
        [str(DEMO_CHECKPOINT), "--output", str(repository), "--set", cache], standalone_mode=False
    )
    return repository


def run(soak: Soak, repository: Path, console: Console) -> SoakResult:
    """Starts the server, measures what it holds, and soaks it.

    Raises:
        LaunchError: The server does not start.
        LoadError: locust does not.
        ValueError: Too few samples to judge.
    """
    with EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as server:
        meet_sizes(server.grpc_url, IMAGE.read_bytes())
        capacity = measure_capacity(server, soak.output)
        rate = soak.load_share * capacity
        console.print(
            f"the server holds {capacity:.1f} requests/s; soaking it with {rate:.1f} between the bursts"
        )
        return _soak(soak, server, capacity)


def measure_capacity(server: EmbeddedTriton, directory: Path) -> float:
    """Requests a second of users who send as fast as they are answered.

    There are more of them than in any burst later, so that the server's memory has had its largest batches.
    """
    stages = [(BURST_FACTOR * USERS, CAPACITY_S)]
    with _load(server, directory / "capacity", dict.fromkeys(PROTOCOLS, stages), pace_s=0) as locusts:
        _wait_for_begin(locusts)
        for locust in locusts:
            locust.wait()
    return sum(locust.rate() for locust in locusts)


def _soak(soak: Soak, server: EmbeddedTriton, capacity: float) -> SoakResult:
    pace_s = USERS * len(PROTOCOLS) / (soak.load_share * capacity)
    stages = {protocol: burst_stages(soak.duration_s, BURSTS_AT[protocol]) for protocol in PROTOCOLS}
    rows: list[dict[str, float]] = []
    try:
        with ExitStack() as stack:
            locusts = stack.enter_context(_load(server, soak.output, stages, pace_s))
            _wait_for_begin(locusts)
            sampler, began_s = Sampler(server.pid, server.metrics), time.time()
            rows.append(sampler.sample())
            hang_ups = HangUps(server.grpc_url, server.http_url, IMAGE.read_bytes(), soak.hang_up_s)
            stack.enter_context(hang_ups)
            while all(locust.is_running() for locust in locusts) and "tritonserver.pid" in rows[-1]:
                time.sleep(soak.sample_s)
                rows.append(sampler.sample())
            for locust in locusts:
                locust.wait()
        rows.append(_settled(sampler))
    finally:
        write_samples(rows, soak.output / "samples.csv")
    failures = sum((locust.failures() for locust in locusts), Counter())
    settings: dict[str, float | str] = {
        "minutes": soak.duration_s / 60,
        "capacity, requests/s": capacity,
        "load share": soak.load_share,
    }
    return SoakResult(
        settings=settings,
        rows=rows,
        histories={locust.protocol: locust.history(began_s) for locust in locusts},
        requests={locust.protocol: locust.requests() for locust in locusts},
        failures=failures,
        hang_ups=hang_ups.counts,
        findings=judge(rows, unexpected(failures), soak.growth_share),
        growth_share=soak.growth_share,
    )


@contextmanager
def _load(
    server: EmbeddedTriton, directory: Path, stages: dict[str, list[tuple[int, float]]], pace_s: float
) -> Iterator[list[Locust]]:
    """Processes of locust, one for each protocol, that are gone afterwards."""
    directory.mkdir(parents=True, exist_ok=True)
    addresses = Addresses(server.grpc_url, server.http_url)
    locusts: list[Locust] = []
    try:
        for seed, (protocol, own) in enumerate(stages.items()):
            locusts.append(Locust(protocol, addresses, directory, own, pace_s, seed))
        yield locusts
    finally:
        for locust in locusts:
            locust.stop()


def _wait_for_begin(locusts: list[Locust]) -> None:
    while not all(locust.has_begun() for locust in locusts):
        time.sleep(0.2)


def _settled(sampler: Sampler) -> dict[str, float]:
    """A last sample, once nothing is inside any more, or the time for that is over."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        row = sampler.sample()
        if not row.get("pending") and not row.get("executing") or time.monotonic() > deadline:
            return row | {LOAD_ENDED: 1.0}
        time.sleep(0.5)


if __name__ == "__main__":
    main()
