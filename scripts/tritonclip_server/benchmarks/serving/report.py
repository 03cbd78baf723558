"""The result as a table on the terminal, as JSON with every round, and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tritonclip_server.benchmarks.peers.settings import has_torchvision, precision
from tritonclip_server.benchmarks.serving.comparison import HEADINGS as COMPARISON_HEADINGS
from tritonclip_server.benchmarks.serving.comparison import comparison_rows, number
from tritonclip_server.benchmarks.serving.measurements import MEASUREMENTS
from tritonclip_server.benchmarks.serving.roofline import DerivedFigure, Rounds, Spread, derive
from tritonclip_server.benchmarks.serving.stages import STAGES
from tritonclip_server.benchmarks.workload import LABEL_COUNT, PHOTO_SIZE

HEADINGS = (
    "measurement",
    "images/s",
    "least to most",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "client CPU ms",
    "rejected",
)
FIGURES = ("p50_ms", "p95_ms", "p99_ms", "client_cpu_ms")
TARGET_HEADINGS = ("derived", "median", "least to most", "target", "")
STAGE_HEADINGS = ("queue + compute ms per request (requests per batch)", *STAGES)
NOTES = (
    f"Unless a line says otherwise: {LABEL_COUNT} labels, 1 image per request, JPEG photos of "
    "{} x {}.".format(*PHOTO_SIZE),
    "Times of the pipeline and of parts are per batch. Client CPU is the CPU time of the load generator per "
    "request. Rejected requests, in all rounds, include those that timed out; they are not in the rates.",
)
VERDICTS = {True: "met", False: "not met", None: ""}


@dataclass(frozen=True)
class BenchmarkResult:
    """Result of a benchmark.

    Attributes:
        rounds: Figures of each round by measurement.
        machine: Description from `machine.describe`.
        settings: Options of the command.
        ready_s: Seconds from launch to readiness by contender.
        skipped: Contenders that were not measured, with the reason.
    """

    rounds: Rounds
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    ready_s: Mapping[str, float]
    skipped: Mapping[str, str]


def titles() -> dict[str, str]:
    """Return the description of each measurement by name, in order."""
    return {measurement.name: measurement.title for measurement in MEASUREMENTS}


def summary(rounds: Rounds) -> dict[str, dict[str, Spread]]:
    """Return median and range of every figure by measurement, without the stages."""
    found: dict[str, dict[str, Spread]] = {}
    for name, runs in rounds.items():
        figures = dict.fromkeys(figure for run in runs for figure in run if figure != "stages")
        found[name] = {
            figure: Spread.of([run[figure] for run in runs if figure in run]) for figure in figures
        }
    return found


def stage_means(rounds: Rounds, name: str) -> dict[str, dict[str, float]]:
    """Return the median over the rounds of the means of each stage, or {} if none were measured."""
    if not all("stages" in figures for figures in rounds[name]):
        return {}
    return {
        stage: {
            figure: Spread.of([float(figures["stages"][stage][figure]) for figures in rounds[name]]).median
            for figure in ("queue_ms", "compute_ms", "batch")
        }
        for stage in STAGES
    }


def measurement_rows(rounds: Rounds) -> list[list[str]]:
    """Return one row per measurement, with the columns `HEADINGS`."""
    rows, spreads = [], summary(rounds)
    for name, title in titles().items():
        if name in spreads:
            rate = spreads[name]["images_per_s"]
            rest = [
                number(spreads[name][figure].median) if figure in spreads[name] else "" for figure in FIGURES
            ]
            rejected = sum(run.get("rejected", 0) for run in rounds[name])
            spread = f"{number(rate.least)} to {number(rate.most)}"
            rows.append([title, number(rate.median), spread, *rest, str(rejected or "")])
    return rows


def target_rows(derived: Sequence[DerivedFigure]) -> list[list[str]]:
    """Return one row per derived figure, with the columns `TARGET_HEADINGS`."""
    return [
        [
            line.target.title,
            f"{number(line.spread.median)} {line.target.unit}".strip(),
            f"{number(line.spread.least)} to {number(line.spread.most)}",
            f"{line.target.relation} {line.target.bound:g} {line.target.unit}".strip()
            if line.target.relation
            else "",
            VERDICTS[line.met],
        ]
        for line in derived
    ]


def stage_rows(rounds: Rounds) -> list[list[str]]:
    """Return one row per measurement of this system, with the columns `STAGE_HEADINGS`."""
    rows = []
    for name, title in titles().items():
        means = stage_means(rounds, name) if name in rounds else {}
        if means:
            rows.append([title, *(_stage_cell(means[stage]) for stage in STAGES)])
    return rows


def _stage_cell(means: Mapping[str, float]) -> str:
    return f"{number(means['queue_ms'])} + {number(means['compute_ms'])} ({number(means['batch'])})"


def facts(result: BenchmarkResult) -> list[str]:
    """Return machine, versions, settings and start times, one per line."""
    machine = result.machine
    ready = ", ".join(f"{name} {number(seconds)} s" for name, seconds in result.ready_s.items())
    return [
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])}), "
        f"{machine['memory_gib']} GiB, Python {machine['python']}, commit {machine['commit']}",
        ", ".join(f"{name} {release}" for name, release in machine["versions"].items()),
        f"{result.settings['checkpoint']}; {result.settings['rounds']} rounds, "
        f"about {result.settings['seconds']:g} s per measurement",
        f"From launch to ready: {ready}",
        f"The pipeline, FastAPI and LitServe compute in {precision()}. Images of the pipeline and FastAPI go "
        f"through {'AutoImageProcessor' if has_torchvision() else 'CLIPImageProcessorPil'}.",
        *(f"Not measured: {name}, because {reason}" for name, reason in result.skipped.items()),
        *NOTES,
    ]


def show(result: BenchmarkResult, console: Console) -> None:
    """Print the result."""
    for line in facts(result):
        console.print(line)
    for headings, rows in _tables(result):
        table = Table(*headings)
        for row in rows:
            table.add_row(*row)
        if rows:
            console.print(table)


def write(result: BenchmarkResult, directory: Path) -> None:
    """Write `benchmark.json` and `benchmark.md`."""
    derived = [
        {
            "title": line.target.title,
            "unit": line.target.unit,
            "relation": line.target.relation,
            "bound": line.target.bound,
            **asdict(line.spread),
            "met": line.met,
        }
        for line in derive(result.rounds, result.machine["bfloat16"])
    ]
    spreads = {
        name: {figure: asdict(spread) for figure, spread in figures.items()}
        for name, figures in summary(result.rounds).items()
    }
    content = {**asdict(result), "summary": spreads, "derived": derived}
    (directory / "benchmark.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (directory / "benchmark.md").write_text(markdown(result), encoding="utf-8")


def markdown(result: BenchmarkResult) -> str:
    """Format the same tables as Markdown."""
    parts = ["\n".join(f"- {line}" for line in facts(result))]
    for headings, rows in _tables(result):
        if rows:
            lines = [headings, ["---"] * len(headings), *rows]
            parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
    return "\n\n".join(parts) + "\n"


def _tables(result: BenchmarkResult) -> list[tuple[Sequence[str], list[list[str]]]]:
    return [
        (COMPARISON_HEADINGS, comparison_rows(result.rounds)),
        (HEADINGS, measurement_rows(result.rounds)),
        (TARGET_HEADINGS, target_rows(derive(result.rounds, result.machine["bfloat16"]))),
        (STAGE_HEADINGS, stage_rows(result.rounds)),
    ]
