"""The result as a table for the terminal, as JSON with every round, and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tritonclip_server.benchmarks.serving.measurements import MEASUREMENTS
from tritonclip_server.benchmarks.serving.roofline import Derived, Rounds, Spread, column, derive
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
)
FIGURES = ("p50_ms", "p95_ms", "p99_ms", "client_cpu_ms")
TARGET_HEADINGS = ("derived", "median", "least to most", "target", "")
STAGE_HEADINGS = ("queue + compute ms of a request (requests a batch)", *STAGES)
NOTES = (
    f"Unless a line says otherwise: {LABEL_COUNT} labels, 1 image a request, JPEG photos of "
    "{} x {}.".format(*PHOTO_SIZE),
    "Times of the pipeline and of parts are those of a whole batch. Client CPU is the load generator's, a "
    "request; for this system with its start.",
)
VERDICTS = {True: "met", False: "not met", None: ""}


@dataclass(frozen=True)
class Result:
    """All of a run.

    Attributes:
        rounds: The figures of each round, by measurement.
        machine: From `machine.describe`.
        settings: Options of the run, and requests a measurement.
        ready_s: Seconds from launch to ready, by contender.
    """

    rounds: Rounds
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    ready_s: Mapping[str, float]


def titles() -> dict[str, str]:
    """What each measurement is, in their order."""
    return {measurement.name: measurement.title for measurement in MEASUREMENTS}


def summary(rounds: Rounds) -> dict[str, dict[str, Spread]]:
    """Median, least and most of every figure, by measurement; the stages aside."""
    return {
        name: {figure: Spread.of(column(rounds, name, figure)) for figure in runs[0] if figure != "stages"}
        for name, runs in rounds.items()
    }


def stage_means(rounds: Rounds, name: str) -> dict[str, dict[str, float]]:
    """Of each stage the median over the rounds of its means; empty where no stages were measured."""
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
    """Under `HEADINGS`, a row a measurement."""
    rows, spreads = [], summary(rounds)
    for name, title in titles().items():
        if name in spreads:
            rate = spreads[name]["images_per_s"]
            rest = [
                number(spreads[name][figure].median) if figure in spreads[name] else "" for figure in FIGURES
            ]
            rows.append([title, number(rate.median), f"{number(rate.least)} to {number(rate.most)}", *rest])
    return rows


def target_rows(derived: Sequence[Derived]) -> list[list[str]]:
    """Under `TARGET_HEADINGS`, a row a derived line."""
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
    """Under `STAGE_HEADINGS`, a row a measurement of the served system."""
    rows = []
    for name, title in titles().items():
        means = stage_means(rounds, name) if name in rounds else {}
        if means:
            rows.append([title, *(_stage_cell(means[stage]) for stage in STAGES)])
    return rows


def _stage_cell(means: Mapping[str, float]) -> str:
    return f"{number(means['queue_ms'])} + {number(means['compute_ms'])} ({number(means['batch'])})"


def number(value: float) -> str:
    """Three digits, more only before the decimal point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def facts(result: Result) -> list[str]:
    """Machine, versions, settings and start times, a line each."""
    machine = result.machine
    ready = ", ".join(f"{name} {number(seconds)} s" for name, seconds in result.ready_s.items())
    return [
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])}), "
        f"{machine['memory_gib']} GiB, Python {machine['python']}, commit {machine['commit']}",
        ", ".join(f"{name} {release}" for name, release in machine["versions"].items()),
        f"{result.settings['checkpoint']}; {result.settings['rounds']} rounds, "
        f"about {result.settings['seconds']:g} s a measurement",
        f"From launch to ready: {ready}",
        *NOTES,
    ]


def show(result: Result, console: Console) -> None:
    """Prints everything."""
    for line in facts(result):
        console.print(line)
    for headings, rows in _tables(result):
        table = Table(*headings)
        for row in rows:
            table.add_row(*row)
        if rows:
            console.print(table)


def write(result: Result, directory: Path) -> None:
    """Writes `benchmark.json` and `benchmark.md`."""
    derived = [
        {
            "title": line.target.title,
            "unit": line.target.unit,
            "relation": line.target.relation,
            "bound": line.target.bound,
            **asdict(line.spread),
            "met": line.met,
        }
        for line in derive(result.rounds)
    ]
    spreads = {
        name: {figure: asdict(spread) for figure, spread in figures.items()}
        for name, figures in summary(result.rounds).items()
    }
    content = {**asdict(result), "summary": spreads, "derived": derived}
    (directory / "benchmark.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (directory / "benchmark.md").write_text(markdown(result), encoding="utf-8")


def markdown(result: Result) -> str:
    """The same tables in Markdown."""
    parts = ["\n".join(f"- {line}" for line in facts(result))]
    for headings, rows in _tables(result):
        if rows:
            lines = [headings, ["---"] * len(headings), *rows]
            parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
    return "\n\n".join(parts) + "\n"


def _tables(result: Result) -> list[tuple[Sequence[str], list[list[str]]]]:
    return [
        (HEADINGS, measurement_rows(result.rounds)),
        (TARGET_HEADINGS, target_rows(derive(result.rounds))),
        (STAGE_HEADINGS, stage_rows(result.rounds)),
    ]
