"""The command `tritonclip-server benchmark serving`: this system, its peers, and the limits of the machine.

All measurements are interleaved in one run, so a drift of the machine affects all contenders. Each figure
is the median over the rounds, with its range. The load generator runs on the same cores, and sends real image
files over loopback.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import click
from rich.console import Console

from tritonclip_server.benchmarks import machine, workload
from tritonclip_server.benchmarks.serving import report
from tritonclip_server.benchmarks.serving.contenders import Contender, TritonContender, make_contenders
from tritonclip_server.benchmarks.serving.measurements import (
    DEFAULT,
    INFINITY,
    INT8,
    LARGE,
    MEASUREMENTS,
    MIX,
    PHOTOS,
    Figures,
    Measurement,
    MeasurementContext,
)
from tritonclip_server.benchmarks.serving.plots import write_plots
from tritonclip_server.benchmarks.serving.roofline import Rounds
from tritonclip_server.repository.prepare import main as prepare_weights
from tritonclip_server.serving.signals import on_stop_signal

RANDOM = "vit-b-32"
COUNTS = {PHOTOS: 64, LARGE: 8, MIX: 32}
"""Number of files in each folder of pictures."""
QUICK_SECONDS = 0.5


@click.command()
@click.argument("checkpoint", required=False)
@click.option("--rounds", default=3, show_default=True, help="Interleaved rounds.")
@click.option("--seconds", default=5.0, show_default=True, help="Approximate duration of one measurement.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build") / "benchmark",
    help="Folder for benchmark.json, benchmark.md and the plots.  [default: build/benchmark]",
)
@click.option("--only", help="Names of measurements, separated by commas; * is a wildcard.")
@click.option(
    "--infinity",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    envvar="TRITONCLIP_BENCHMARK_INFINITY",
    show_envvar=True,
    help="Python of an environment with infinity-emb, to compare with it.",
)
@click.option("--quick", is_flag=True, help="Run one short round, to check that everything works.")
def main(
    checkpoint: str | None,
    rounds: int,
    seconds: float,
    output: Path,
    only: str | None,
    infinity: Path | None,
    quick: bool,
) -> None:
    """Measure this system and its peers on CHECKPOINT, a directory or a hub id.

    Without CHECKPOINT, full-size random weights of ViT-B/32 are used.
    """
    measurements = select_measurements(only)
    skipped = skipped_contenders(infinity)
    if quick:
        rounds, seconds = 1, QUICK_SECONDS
    output.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    on_stop_signal()
    with tempfile.TemporaryDirectory() as scratch:
        benchmark = Benchmark(checkpoint, rounds, seconds, infinity, skipped, Path(scratch), console)
        result = benchmark.run(measurements)
    report.write(result, output)
    write_plots(result.rounds, output)
    report.show(result, console)
    console.print(f"written to {output}")


def skipped_contenders(infinity: Path | None) -> dict[str, str]:
    """Return the contenders that cannot be measured here, with the reason."""
    skipped = {}
    if infinity is None:
        skipped[INFINITY] = "--infinity was not given"
    if machine.has_bfloat16():
        skipped[INT8] = "the CPU has bfloat16 instructions, which are faster"
    return skipped


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


@dataclass(frozen=True)
class Benchmark:
    """Options of a benchmark.

    Attributes:
        checkpoint: A directory or a hub id, or None for random weights.
        rounds: Interleaved rounds.
        seconds: Approximate duration of one measurement.
        infinity: Python that has infinity, or None.
        skipped: Contenders that are not measured, with the reason.
        scratch: An empty folder.
        console: Destination of the progress.
    """

    checkpoint: str | None
    rounds: int
    seconds: float
    infinity: Path | None
    skipped: Mapping[str, str]
    scratch: Path
    console: Console

    def run(self, measurements: Sequence[Measurement]) -> report.BenchmarkResult:
        """Prepare the inputs, start the contenders, run all rounds, and stop the contenders in any case."""
        measurements = [one for one in measurements if one.contender not in self.skipped]
        wanted = {measurement.contender for measurement in measurements}
        write_pictures(self.scratch, {measurement.photos for measurement in measurements})
        model, repositories = self._prepare(wanted)
        labels = self.scratch / "labels.json"
        labels.write_text(json.dumps(workload.labels(workload.LABEL_COUNT)), encoding="utf-8")
        contenders = make_contenders(
            wanted,
            model=model,
            repositories=repositories,
            infinity=self.infinity,
            labels=labels,
            logs=self.scratch,
        )
        facts = machine.describe()
        if self.infinity is not None and INFINITY in wanted:
            found = machine.versions_in(self.infinity, ("infinity-emb", "transformers"))
            facts["versions"]["infinity-emb"] = (
                f"{found['infinity-emb']} (transformers {found['transformers']})"
            )
        with ExitStack() as stack:
            for contender in contenders.values():
                stack.callback(contender.stop)
                contender.start()
                self.console.print(f"{contender.name} is ready after {contender.ready_s:.1f} s")
                if isinstance(contender, TritonContender):
                    with resumed(contender):
                        facts["versions"]["triton"] = machine.triton_version(contender.server.http_url)
            context = MeasurementContext(contenders, self.scratch)
            rounds = self._measure(context, measurements)
        settings = {
            "checkpoint": self.checkpoint or f"random {RANDOM}",
            "rounds": self.rounds,
            "seconds": self.seconds,
        }
        ready_s = {name: contender.ready_s for name, contender in contenders.items()}
        return report.BenchmarkResult(rounds, facts, settings, ready_s, self.skipped)

    def _measure(self, context: MeasurementContext, measurements: Sequence[Measurement]) -> Rounds:
        for measurement in measurements:
            with resumed(context.contenders[measurement.contender]):
                measurement.warm_up(context)
            self.console.print(f"{measurement.name} is warm")
        rounds: dict[str, list[Figures]] = {measurement.name: [] for measurement in measurements}
        for number in range(self.rounds):
            for measurement in measurements:
                with resumed(context.contenders[measurement.contender]):
                    found = measurement.run(context, self.seconds)
                rounds[measurement.name].append(found)
                rate = f"{found['images_per_s']:.1f} images/s"
                self.console.print(f"round {number + 1} of {self.rounds}: {measurement.name} {rate}")
        return rounds

    def _prepare(self, wanted: Collection[str]) -> tuple[str, dict[str, Path]]:
        """Write the model repositories to the scratch folder.

        Returns:
            The checkpoint for transformers, and the repositories by name of the contender.
        """
        repositories = {DEFAULT: self.scratch / "models"}
        source, model = [self.checkpoint], self.checkpoint
        if model is None:
            model = str(self.scratch / "checkpoint")
            source = ["--random", RANDOM, "--keep-checkpoint", model]
        prepare_weights([*source, "--output", str(repositories[DEFAULT])], standalone_mode=False)
        if INT8 in wanted:
            repositories[INT8] = self.scratch / "models-int8"
            arguments = [model, "--precision", "int8", "--output", str(repositories[INT8])]
            prepare_weights(arguments, standalone_mode=False)
        return model, repositories


@contextmanager
def resumed(contender: Contender) -> Iterator[None]:
    """Let one contender run while the others are paused."""
    contender.resume()
    try:
        yield
    finally:
        contender.pause()


def write_pictures(directory: Path, folders: Collection[str]) -> None:
    """Write the folders of pictures that are measured."""
    if PHOTOS in folders:
        workload.write_photos(directory / PHOTOS, COUNTS[PHOTOS], workload.PHOTO_SIZE)
    if LARGE in folders:
        workload.write_photos(directory / LARGE, COUNTS[LARGE], workload.LARGE_PHOTO_SIZE)
    if MIX in folders:
        workload.write_files(directory / MIX, workload.mix(COUNTS[MIX]))


if __name__ == "__main__":
    main()
