"""Plots of the result. A plot is left out if its measurements are missing."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from tritonclip_server.benchmarks.serving.measurements import CALLERS, SERVERS  # noqa: E402
from tritonclip_server.benchmarks.serving.report import stage_means, titles  # noqa: E402
from tritonclip_server.benchmarks.serving.roofline import (  # noqa: E402
    Rounds,
    column,
    latency_floors,
    rooflines,
)
from tritonclip_server.benchmarks.serving.stages import STAGES  # noqa: E402

BASELINES = {"pipeline-1": "pipeline, one by one", "pipeline-16": "pipeline, batches of 16"}
LABEL_POINTS = {10: "triton-1", 100: "labels-100", 1000: "labels-1000"}
IMAGE_BARS = {
    "1 x 1": "triton-1",
    "1 x 16": "images-16x1",
    "16 x 1": "triton-16",
    "4 x 16": "images-16x4",
    "64 x 1": "triton-64",
}


def write_plots(rounds: Rounds, directory: Path) -> list[Path]:
    """Draw the plots whose measurements are available, and return the PNG files."""
    pictures = {
        "callers.png": by_callers,
        "labels.png": by_labels,
        "images.png": by_images,
        "stages.png": by_stage,
    }
    written = []
    for name, draw in pictures.items():
        figure = draw(rounds)
        if figure is not None:
            figure.savefig(directory / name, dpi=120, bbox_inches="tight")
            plt.close(figure)
            written.append(directory / name)
    return written


def by_callers(rounds: Rounds) -> Figure | None:
    """Plot throughput and median latency of all servers over callers, with the pipeline and the limits."""
    servers = {name: _points(rounds, name) for name in reversed(SERVERS)}
    if not any(servers.values()):
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for name, points in servers.items():
        if points:
            _line(left, rounds, points, "images_per_s", SERVERS[name])
            _line(right, rounds, points, "p50_ms", SERVERS[name])
    for name, title in BASELINES.items():
        if name in rounds:
            left.axhline(median(column(rounds, name)), color="grey", linestyle="--", label=title)
    _limit(left, rounds, "roofline")
    _limit(right, rounds, "floor")
    right.set_yscale("log")
    for axes, title in ((left, "images/s"), (right, "median latency, ms")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(CALLERS), [str(callers) for callers in CALLERS])
        axes.set_xlabel("callers, each with one request of one image in flight")
        axes.set_title(title)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncol=2)
        axes.grid(alpha=0.3)
    left.set_ylim(bottom=0)
    return figure


def by_labels(rounds: Rounds) -> Figure | None:
    """Plot the latency of one caller over the number of cached labels."""
    points = {labels: name for labels, name in LABEL_POINTS.items() if _is_answered(rounds, name)}
    if len(points) < 2:
        return None
    figure, axes = plt.subplots(figsize=(6, 4))
    _line(axes, rounds, points, "p50_ms", "median latency")
    stages = [stage_means(rounds, name) for name in points.values()]
    for stage in ("text_encoder", "similarity"):
        axes.plot(
            list(points), [means[stage]["compute_ms"] for means in stages], "o-", label=f"{stage} alone"
        )
    axes.set_xscale("log")
    axes.set_xticks(list(points), [str(labels) for labels in points])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("cached labels per request, 1 caller")
    axes.set_ylabel("ms")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def by_images(rounds: Rounds) -> Figure | None:
    """Plot the time per image over requests in flight and images per request."""
    bars = {label: name for label, name in IMAGE_BARS.items() if _is_answered(rounds, name)}
    if not bars:
        return None
    figure, axes = plt.subplots(figsize=(6, 4))
    times_ms = [[1e3 / rate for rate in column(rounds, name)] for name in bars.values()]
    middles = [median(times) for times in times_ms]
    below = [middle - min(times) for middle, times in zip(middles, times_ms, strict=True)]
    above = [max(times) - middle for middle, times in zip(middles, times_ms, strict=True)]
    axes.bar(list(bars), middles, yerr=[below, above], capsize=4)
    axes.set_xlabel("requests in flight x images per request")
    axes.set_ylabel("ms per image")
    axes.grid(axis="y", alpha=0.3)
    return figure


def by_stage(rounds: Rounds) -> Figure | None:
    """Plot queue and compute time per request in each stage."""
    names = [name for name in titles() if name in rounds and stage_means(rounds, name)]
    if not names:
        return None
    figure, axes = plt.subplots(figsize=(9, 0.4 * len(names) + 1.5))
    left = [0.0] * len(names)
    shares = [_shares(rounds, name) for name in names]
    for number, stage in enumerate(STAGES):
        for kind, hatch in (("compute_ms", ""), ("queue_ms", "///")):
            widths = [share[stage, kind] for share in shares]
            label = f"{stage}, {kind.removesuffix('_ms')}"
            axes.barh(
                names,
                widths,
                left=left,
                color=f"C{number}",
                hatch=hatch,
                alpha=0.5 if hatch else 1,
                label=label,
            )
            left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of a request's time in the stages, %")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _points(rounds: Rounds, server: str) -> dict[int, str]:
    """Return the measurements of a server by number of callers."""
    names = {callers: f"{server}-{callers}" for callers in CALLERS}
    return {callers: name for callers, name in names.items() if _is_answered(rounds, name)}


def _is_answered(rounds: Rounds, name: str) -> bool:
    """Return whether a measurement had answers in every round."""
    return name in rounds and all(column(rounds, name))


def _shares(rounds: Rounds, name: str) -> dict[tuple[str, str], float]:
    means = stage_means(rounds, name)
    times = {(stage, kind): means[stage][kind] for stage in STAGES for kind in ("compute_ms", "queue_ms")}
    total = sum(times.values()) or 1.0
    return {key: 100 * value / total for key, value in times.items()}


def _line(axes: Axes, rounds: Rounds, points: dict[int, str], figure: str, label: str) -> None:
    values = [column(rounds, name, figure) for name in points.values()]
    (line,) = axes.plot(list(points), [median(each) for each in values], "o-", label=label)
    axes.fill_between(
        list(points), list(map(min, values)), list(map(max, values)), alpha=0.2, color=line.get_color()
    )


def _limit(axes: Axes, rounds: Rounds, kind: str) -> None:
    try:
        value = median(rooflines(rounds) if kind == "roofline" else latency_floors(rounds))
    except KeyError:
        return
    axes.axhline(value, color="black", linestyle=":", label=kind)
