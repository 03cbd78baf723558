"""The command `tritonclip-server benchmark serving`: this system, its peers, and the limits of the machine.

All measurements are interleaved in one run, so a drift of the machine affects all contenders. Each figure
is the median over the rounds, with its range. The load generator runs on the same cores, and sends real JPEG
files over loopback.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from pathlib import Path

import click
from rich.console import Console

from tritonclip_server.benchmarks import machine, perf_analyzer, workload
from tritonclip_server.benchmarks.serving import report
from tritonclip_server.benchmarks.serving.contenders import Contender, TritonContender, make_contenders
from tritonclip_server.benchmarks.serving.measurements import (
    MEASUREMENTS,
    Figures,
    Measurement,
    MeasurementContext,
)
from tritonclip_server.benchmarks.serving.plots import write_plots
from tritonclip_server.repository.prepare import main as prepare_weights
from tritonclip_server.serving.signals import on_stop_signal

RANDOM = "vit-b-32"
PHOTOS, LARGE_PHOTOS = 64, 8
QUICK_SECONDS = 0.5


@click.command()
@click.argument("checkpoint", required=False)
@click.option("--rounds", default=3, show_default=True, help="Interleaved rounds.")
@click.option("--seconds", default=10.0, show_default=True, help="Approximate duration of one measurement.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build") / "benchmark",
    help="Folder for benchmark.json, benchmark.md and the plots.  [default: build/benchmark]",
)
@click.option("--only", help="Names of measurements, separated by commas; * is a wildcard.")
@click.option("--quick", is_flag=True, help="Run one short round, to check that everything works.")
def main(
    checkpoint: str | None, rounds: int, seconds: float, output: Path, only: str | None, quick: bool
) -> None:
    """Measure this system and its peers on CHECKPOINT, a directory or a hub id.

    Without CHECKPOINT, full-size random weights of ViT-B/32 are used.
    """
    measurements = select_measurements(only)
    if quick:
        rounds, seconds = 1, QUICK_SECONDS
    output.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    on_stop_signal()
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(measurements, checkpoint, rounds, seconds, Path(scratch), console)
    report.write(result, output)
    write_plots(result.rounds, output)
    report.show(result, console)
    console.print(f"written to {output}")


def select_measurements(only: str | None) -> list[Measurement]:
    """Return the measurements whose names match one of the patterns, or all measurements.

    Raises:
        click.BadParameter: A pattern matches no measurement.
    """
    if only is None:
        return list(MEASUREMENTS)
    names, patterns = [measurement.name for measurement in MEASUREMENTS], only.split(",")
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise click.BadParameter(f"no measurement matches {pattern}; choose from {', '.join(names)}")
    return [one for one in MEASUREMENTS if any(fnmatch(one.name, pattern) for pattern in patterns)]


def measure(
    measurements: list[Measurement],
    checkpoint: str | None,
    rounds: int,
    seconds: float,
    scratch: Path,
    console: Console,
) -> report.BenchmarkResult:
    """Prepare the inputs, start the contenders, run all rounds, and stop the contenders in any case."""
    model = prepare(checkpoint, scratch, large=any(one.name.startswith("large") for one in measurements))
    program = perf_analyzer.install(Path("build") / "perf_analyzer")
    contenders = make_contenders(
        {measurement.contender for measurement in measurements},
        model=model,
        repository=scratch / "models",
        photos=scratch / "photos",
        labels=scratch / "labels.json",
        logs=scratch,
    )
    context = MeasurementContext(contenders, scratch, program)
    facts = machine.describe()
    figures: dict[str, list[Figures]] = {measurement.name: [] for measurement in measurements}
    with ExitStack() as stack:
        for contender in contenders.values():
            stack.callback(contender.stop)
            contender.start()
            console.print(f"{contender.name} is ready after {contender.ready_s:.1f} s")
            if isinstance(contender, TritonContender):
                with resumed(contender):
                    facts["versions"]["triton"] = machine.triton_version(contender.server.http_url)
        for measurement in measurements:
            with resumed(contenders[measurement.contender]):
                measurement.warm_up(context, seconds)
        for number in range(rounds):
            for measurement in measurements:
                with resumed(contenders[measurement.contender]):
                    found = measurement.run(context, seconds)
                figures[measurement.name].append(found)
                rate = f"{found['images_per_s']:.1f} images/s"
                console.print(f"round {number + 1} of {rounds}: {measurement.name} {rate}")
    settings = {"checkpoint": checkpoint or f"random {RANDOM}", "rounds": rounds, "seconds": seconds}
    settings["requests"] = context.requests
    ready_s = {name: contender.ready_s for name, contender in contenders.items()}
    return report.BenchmarkResult(figures, facts, settings, ready_s)


@contextmanager
def resumed(contender: Contender) -> Iterator[None]:
    """Let one contender run while the others are paused."""
    contender.resume()
    try:
        yield
    finally:
        contender.pause()


def prepare(checkpoint: str | None, scratch: Path, large: bool) -> str:
    """Write the model repository, photos, large photos if `large` is set, and labels to the scratch folder.

    Returns:
        Checkpoint for transformers.
    """
    workload.write_photos(scratch / "photos", PHOTOS, workload.PHOTO_SIZE)
    if large:
        workload.write_photos(scratch / "large", LARGE_PHOTOS, workload.LARGE_PHOTO_SIZE)
    labels = json.dumps(workload.labels(workload.LABEL_COUNT))
    (scratch / "labels.json").write_text(labels, encoding="utf-8")
    source, model = [checkpoint], checkpoint
    if model is None:
        model = str(scratch / "checkpoint")
        source = ["--random", RANDOM, "--keep-checkpoint", model]
    prepare_weights([*source, "--output", str(scratch / "models")], standalone_mode=False)
    return model


if __name__ == "__main__":
    main()
