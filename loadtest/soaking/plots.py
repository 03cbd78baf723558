"""Plots of a soak: all figures over time, one panel per figure, with the warm-up shaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402

from .findings import MIB, Row, process_names, warm_up_end_s  # noqa: E402
from .locust_run import HistoryPoint  # noqa: E402

Draw = Callable[[Axes], None]
COLUMNS = 2
PANEL_INCHES = (7.0, 2.8)


def write_plots(rows: Sequence[Row], histories: dict[str, list[HistoryPoint]], path: Path) -> None:
    """Plot a soak to a PNG file.

    Args:
        rows: Samples in order of time.
        histories: Latencies of the load over the same time, by protocol.
        path: Output file.
    """
    panels = _panels(rows, histories)
    height = -(-len(panels) // COLUMNS)
    size = (COLUMNS * PANEL_INCHES[0], height * PANEL_INCHES[1])
    figure, grid = plt.subplots(height, COLUMNS, figsize=size, sharex=True, squeeze=False)
    for axes, (title, draw) in zip(grid.flat, panels.items(), strict=False):
        draw(axes)
        axes.set_title(title, fontsize=10)
        axes.axvspan(rows[0]["time_s"] / 60, warm_up_end_s(rows) / 60, color="grey", alpha=0.15)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    for axes in grid[-1]:
        axes.set_xlabel("minutes; the warm-up is shaded")
    for axes in list(grid.flat)[len(panels) :]:
        axes.remove()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panels(rows: Sequence[Row], histories: dict[str, list[HistoryPoint]]) -> dict[str, Draw]:
    names = process_names(rows)
    panels: dict[str, Draw] = {
        "private memory since the first sample after the warm-up, MiB": lambda axes: _changes(
            axes, rows, names
        ),
        "resident memory without shared regions, MiB": lambda axes: _each(
            axes, rows, names, "resident_bytes", MIB
        ),
        "proportional memory (PSS), MiB": lambda axes: _each(axes, rows, names, "pss_bytes", MIB),
        "shared regions in /dev/shm, MiB": lambda axes: _one(axes, rows, "regions_bytes", MIB),
        "file handles": lambda axes: _each(axes, rows, names, "handles"),
        "threads": lambda axes: _each(axes, rows, names, "threads"),
        "requests in the server": lambda axes: _several(axes, rows, ("pending", "executing")),
        "label cache, MiB": lambda axes: _one(axes, rows, "label_cache_bytes", MIB),
        "responses per second, counted by the server": lambda axes: _rates(
            axes, rows, ("succeeded", "failed")
        ),
        "latency, ms (locust, last seconds)": lambda axes: _latencies(axes, histories),
    }
    return panels


def _series(rows: Sequence[Row], figure: str) -> tuple[list[float], list[float]]:
    found = [(row["time_s"] / 60, row[figure]) for row in rows if figure in row]
    return [time for time, _ in found], [value for _, value in found]


def _one(axes: Axes, rows: Sequence[Row], figure: str, factor: float = 1) -> None:
    times, values = _series(rows, figure)
    axes.plot(times, [value / factor for value in values])
    _from_zero(axes)


def _several(axes: Axes, rows: Sequence[Row], figures: Sequence[str]) -> None:
    for figure in figures:
        axes.plot(*_series(rows, figure), label=figure)
    _from_zero(axes)


def _each(axes: Axes, rows: Sequence[Row], names: Sequence[str], figure: str, factor: float = 1) -> None:
    for name in names:
        times, values = _series(rows, f"{name}.{figure}")
        axes.plot(times, [value / factor for value in values], label=name)
    _from_zero(axes)


def _changes(axes: Axes, rows: Sequence[Row], names: Sequence[str]) -> None:
    """Plot each process's private memory relative to the end of the warm-up, which reveals small leaks."""
    warm_min = warm_up_end_s(rows) / 60
    for name in names:
        times, values = _series(rows, f"{name}.private_bytes")
        warm = next((value for time, value in zip(times, values, strict=True) if time >= warm_min), None)
        if warm is not None:
            axes.plot(times, [(value - warm) / MIB for value in values], label=name)
    changes = [_points(line)[_points(line)[:, 0] >= warm_min, 1] for line in axes.get_lines()]
    room = max([1.0, *(float(np.abs(change).max(initial=0)) for change in changes)])
    axes.set_ylim(-1.2 * room, 1.2 * room)


def _points(line: Line2D) -> np.ndarray:
    """Return the points of a line, [n, 2]."""
    return np.asarray(line.get_xydata()).reshape(-1, 2)


def _from_zero(axes: Axes) -> None:
    """Start the axis at 0, with space above the largest value."""
    largest = max((float(_points(line)[:, 1].max(initial=0)) for line in axes.get_lines()), default=0.0)
    axes.set_ylim(0, 1.1 * largest or 1)


def _rates(axes: Axes, rows: Sequence[Row], figures: Sequence[str]) -> None:
    for figure in figures:
        times, values = _series(rows, figure)
        steps = zip(zip(times, values, strict=True), zip(times[1:], values[1:], strict=True), strict=False)
        rates = [(later, (after - before) / 60 / (later - time)) for (time, before), (later, after) in steps]
        axes.plot([time for time, _ in rates], [rate for _, rate in rates], label=figure)
    _from_zero(axes)


def _latencies(axes: Axes, histories: dict[str, list[HistoryPoint]]) -> None:
    for number, (protocol, points) in enumerate(histories.items()):
        minutes = [point.time_s / 60 for point in points]
        axes.plot(minutes, [point.p50_ms for point in points], color=f"C{number}", label=f"{protocol} p50")
        slow = [point.p99_ms for point in points]
        axes.plot(minutes, slow, color=f"C{number}", alpha=0.5, linestyle="--", label=f"{protocol} p99")
    if histories:
        axes.set_yscale("log")
