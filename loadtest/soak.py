"""Run the embedded server under a long mixed load, and fail if anything grows: `soak.py --minutes 20`.

The load uses gRPC and HTTP at a share of the measured capacity, with short bursts above it, bad requests, and
clients that disconnect during a request. Memory, file handles, threads and shared memory of every server
process are sampled. The first fifth of the time is the warm-up.
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

from soaking.findings import GROWTH_SHARE, LOAD_ENDED, soak_findings
from soaking.hangups import HangUps
from soaking.locust_run import (
    BURST_FACTOR,
    PROTOCOLS,
    USERS,
    LoadError,
    LocustProcess,
    ServerAddresses,
    burst_stages,
    unexpected_failures,
)
from soaking.plots import write_plots
from soaking.report import SoakResult, print_report, write_samples, write_summary
from soaking.samples import Sampler
from soaking.warm_up import warm_up_batch_sizes
from tritonclip_server.paths import DEMO_CHECKPOINT, DEMO_IMAGES
from tritonclip_server.repository.prepare import main as prepare_weights
from tritonclip_server.serving.launcher import EmbeddedTriton, LaunchError, ServerOptions
from tritonclip_server.serving.signals import on_stop_signal

ROOT = Path(__file__).resolve().parent.parent

IMAGE = DEMO_IMAGES / "red_circle.jpg"
CACHE_BYTES = 2**19
"""Size of the label cache. The labels of the load need more, so it fills up early and evicts constantly."""
CAPACITY_S = 10.0
BURSTS_AT = {"grpc": 0.3, "http": 0.8}
"""Start of the burst as a share of each period, so that the protocols never burst together."""
SETTLE_S = 15.0


@dataclass(frozen=True)
class SoakSettings:
    """Settings of a soak.

    Attributes:
        duration_s: Length of the load.
        sample_s: Seconds between samples.
        load_share: Rate between the bursts, as a share of the measured capacity.
        hang_up_s: Seconds between clients that disconnect.
        growth_share: Allowed growth after the warm-up, as a share.
        output: Folder for all results.
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
    help="A prepared model repository. Its label cache should be full before the warm-up ends.  "
    "[default: the demo checkpoint with a small cache]",
)
@click.option(
    "--sample-every",
    type=click.FloatRange(min=0.2),
    help="Seconds between samples.  [default: 1/240 of the duration, at most 5]",
)
@click.option(
    "--load-share",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Rate between the bursts, as a share of the measured capacity.",
)
@click.option(
    "--hang-up-every", default=1.0, show_default=True, help="Seconds between clients that disconnect."
)
@click.option(
    "--growth-limit",
    default=GROWTH_SHARE,
    show_default=True,
    help="Allowed growth after the warm-up, as a share.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=ROOT / "build" / "soak",
    help="Folder for samples, summary and plots.  [default: build/soak]",
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
    """Soak-test the embedded server. Exit code 1 means growth, a lost process, or a wrong answer."""
    on_stop_signal()
    duration_s = 60 * minutes
    sample_s = sample_every or min(5.0, duration_s / 240)
    settings = SoakSettings(duration_s, sample_s, load_share, hang_up_every, growth_limit, output)
    output.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            result = run_soak(settings, repository or prepare_repository(Path(scratch)), console)
    except (LaunchError, LoadError, ValueError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    write_summary(result, output)
    write_plots(result.rows, result.histories, output / "soak.png")
    print_report(result, console)
    console.print(f"results: {output}")
    sys.exit(bool(result.findings))


def prepare_repository(scratch: Path) -> Path:
    """Write the default repository, and return its path."""
    repository = scratch / "models"
    cache = f"text_encoder.cache_bytes={CACHE_BYTES}"
    prepare_weights(
        [str(DEMO_CHECKPOINT), "--output", str(repository), "--set", cache], standalone_mode=False
    )
    return repository


def run_soak(settings: SoakSettings, repository: Path, console: Console) -> SoakResult:
    """Start the server, measure its capacity, and soak it.

    Raises:
        LaunchError: The server does not start.
        LoadError: Locust does not start.
        ValueError: There are too few samples.
    """
    with EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as server:
        warm_up_batch_sizes(server.grpc_url, IMAGE.read_bytes())
        capacity = measure_capacity(server, settings.output)
        rate = settings.load_share * capacity
        console.print(
            f"capacity {capacity:.1f} requests/s; soaking with {rate:.1f} requests/s between bursts"
        )
        return _soak(settings, server, capacity)


def measure_capacity(server: EmbeddedTriton, directory: Path) -> float:
    """Return the capacity in requests/s, measured with users who send as fast as the server answers.

    Both protocols run at once with the users of a burst. Batches therefore reach their largest size, and the
    server its largest buffers, before the soak.
    """
    stages = [(BURST_FACTOR * USERS, CAPACITY_S)]
    with _load(server, directory / "capacity", dict.fromkeys(PROTOCOLS, stages), pace_s=0) as locusts:
        _wait_for_start(locusts)
        for locust in locusts:
            locust.wait()
    return sum(locust.rate() for locust in locusts)


def _soak(settings: SoakSettings, server: EmbeddedTriton, capacity: float) -> SoakResult:
    pace_s = USERS * len(PROTOCOLS) / (settings.load_share * capacity)
    stages = {protocol: burst_stages(settings.duration_s, BURSTS_AT[protocol]) for protocol in PROTOCOLS}
    rows: list[dict[str, float]] = []
    try:
        with ExitStack() as stack:
            locusts = stack.enter_context(_load(server, settings.output, stages, pace_s))
            _wait_for_start(locusts)
            sampler, began_s = Sampler(server.pid, server.metrics), time.time()
            rows.append(sampler.sample())
            hang_ups = HangUps(server.grpc_url, server.http_url, IMAGE.read_bytes(), settings.hang_up_s)
            stack.enter_context(hang_ups)
            while all(locust.is_running() for locust in locusts) and "tritonserver.pid" in rows[-1]:
                time.sleep(settings.sample_s)
                rows.append(sampler.sample())
            for locust in locusts:
                locust.wait()
        rows.append(_sample_after_load(sampler))
    finally:
        write_samples(rows, settings.output / "samples.csv")
    failures = sum((locust.failures() for locust in locusts), Counter())
    return SoakResult(
        settings={
            "minutes": settings.duration_s / 60,
            "capacity, requests/s": capacity,
            "load share": settings.load_share,
        },
        rows=rows,
        histories={locust.protocol: locust.history(began_s) for locust in locusts},
        requests={locust.protocol: locust.requests() for locust in locusts},
        failures=failures,
        hang_ups=hang_ups.counts,
        findings=soak_findings(rows, unexpected_failures(failures), settings.growth_share),
        growth_share=settings.growth_share,
    )


@contextmanager
def _load(
    server: EmbeddedTriton, directory: Path, stages: dict[str, list[tuple[int, float]]], pace_s: float
) -> Iterator[list[LocustProcess]]:
    """Start a locust process for each protocol, and stop them at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    addresses = ServerAddresses(server.grpc_url, server.http_url)
    locusts: list[LocustProcess] = []
    try:
        for seed, (protocol, of_protocol) in enumerate(stages.items()):
            locusts.append(LocustProcess(protocol, addresses, directory, of_protocol, pace_s, seed))
        yield locusts
    finally:
        for locust in locusts:
            locust.stop()


def _wait_for_start(locusts: list[LocustProcess]) -> None:
    while not all(locust.has_started() for locust in locusts):
        time.sleep(0.2)


def _sample_after_load(sampler: Sampler) -> dict[str, float]:
    """Return a last sample, taken when no request is left in the server, or after SETTLE_S seconds."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        row = sampler.sample()
        if not row.get("pending") and not row.get("executing") or time.monotonic() > deadline:
            return row | {LOAD_ENDED: 1.0}
        time.sleep(0.5)


if __name__ == "__main__":
    main()
