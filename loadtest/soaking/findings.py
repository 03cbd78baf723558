"""Find what fails a soak: growth, replaced or missing processes, leftover requests, and wrong answers. Pure.

A sample is a row of figures by name. The name of a process figure is `PROCESS.FIGURE`. `samples.py` takes the
samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MIB = 2**20
GROWTH_SHARE = 0.02
"""Growth allowed after the warm-up, as a share of the first value."""
WARM_UP_SHARE = 0.2
"""Share of the time that is ignored, because caches, arenas and connections fill up during it."""
END_SHARE = 0.2
"""Share of the time after the warm-up that counts as its beginning, and as its end."""
MAX_POINTS = 400
"""Longer series are condensed to this many medians, because the trend uses every pair of points."""
MIN_POINTS = 5
LOAD_ENDED = "load_ended"
"""Figure of rows that were sampled after the load had ended."""

Row = Mapping[str, float]


@dataclass(frozen=True)
class FigureKind:
    """Kind of a checked figure.

    Attributes:
        unit: `MiB` for figures in bytes, otherwise the counted items.
        min_allowed: Growth that always passes, in bytes or counts. A page or a handle more is not a leak.
    """

    unit: str
    min_allowed: float

    @property
    def factor(self) -> int:
        """Divisor that converts the figure to its unit."""
        return MIB if self.unit == "MiB" else 1


PROCESS_KINDS = {
    # Resident memory also counts file pages, which the kernel maps and drops as it likes.
    "private_bytes": FigureKind("MiB", 2 * MIB),
    # Each user opens a second connection at its first bad request.
    "handles": FigureKind("file handles", 16),
    "threads": FigureKind("threads", 2),
}
"""Figures that are checked for every process."""
SERVER_KINDS = {
    # The region of a model instance grows in steps of 1 MiB to its largest content so far, and never shrinks.
    # Some instances process their largest batch only after the warm-up.
    "regions_bytes": FigureKind("MiB", 4 * MIB),
    "label_cache_bytes": FigureKind("MiB", 0),
}
"""Figures that are checked for the server as a whole."""


@dataclass(frozen=True)
class Growth:
    """Change of a figure after the warm-up.

    Attributes:
        first: Median at the beginning.
        last: Median at the end.
        trend: Theil-Sen slope times `span_s`.
        span_s: Seconds from the middle of the beginning to the middle of the end.
    """

    first: float
    last: float
    trend: float
    span_s: float

    @property
    def change(self) -> float:
        """The larger of two measures: the medians detect a step, the slope a slow leak in noise."""
        return max(self.last - self.first, self.trend)

    @property
    def share(self) -> float:
        """The change as a share of the first value."""
        return self.change / self.first if self.first else 0.0

    @property
    def per_hour(self) -> float:
        """The slope, in the figure's unit per hour."""
        return 3600 * self.trend / self.span_s


@dataclass(frozen=True)
class GrowthCheck:
    """Growth of a figure, and its limit.

    Attributes:
        growth: Measured growth, in bytes or counts.
        kind: Kind of the figure.
        allowed: Largest growth that passes, in bytes or counts.
    """

    growth: Growth
    kind: FigureKind
    allowed: float

    @property
    def failed(self) -> bool:
        """True if the figure grew by more than is allowed."""
        return self.growth.change > self.allowed


@dataclass(frozen=True)
class Finding:
    """Reason for which the soak fails.

    Attributes:
        subject: Name of the process, or `server`, or `load`.
        text: The figure that was found, and its limit.
    """

    subject: str
    text: str


def measure_growth(
    times_s: Sequence[float], values: Sequence[float], warm_up_share: float = WARM_UP_SHARE
) -> Growth:
    """Measure the change of a series after the warm-up. Spikes and sawteeth do not affect it.

    Args:
        times_s: Ascending times, including the warm-up.
        values: The figure at these times.
        warm_up_share: Share of the time to ignore.

    Raises:
        ValueError: There are too few samples after the warm-up.
    """
    times, series = np.asarray(times_s, float), np.asarray(values, float)
    kept = times >= times[0] + warm_up_share * (times[-1] - times[0]) if len(times) else times > 0
    times, series = times[kept], series[kept]
    if len(times) < MIN_POINTS:
        raise ValueError(
            f"{len(times)} samples after the warm-up, but at least {MIN_POINTS} are needed: soak longer, or "
            "sample more often"
        )
    ends = END_SHARE * (times[-1] - times[0])
    at_first, at_last = times <= times[0] + ends, times >= times[-1] - ends
    span_s = float(np.median(times[at_last]) - np.median(times[at_first]))
    first, last = float(np.median(series[at_first])), float(np.median(series[at_last]))
    return Growth(first, last, theil_sen(*condense(times, series)) * span_s, span_s)


def theil_sen(times: np.ndarray, values: np.ndarray) -> float:
    """Return the median slope over all pairs of points.

    Source: Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau", JASA 63 (1968).
    """
    earlier, later = np.triu_indices(len(times), 1)
    return float(np.median((values[later] - values[earlier]) / (times[later] - times[earlier])))


def condense(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reduce a series to at most MAX_POINTS points, the medians of neighbours."""
    parts = min(len(times), MAX_POINTS)
    groups = zip(np.array_split(times, parts), np.array_split(values, parts), strict=True)
    pairs = np.array([(np.median(some), np.median(figures)) for some, figures in groups])
    return pairs[:, 0], pairs[:, 1]


def under_load(rows: Iterable[Row]) -> list[Row]:
    """Return the rows that were sampled under load."""
    return [row for row in rows if not row.get(LOAD_ENDED)]


def warm_up_end_s(rows: Iterable[Row]) -> float:
    """Return the end of the warm-up, on the time axis of the rows."""
    times_s = [row["time_s"] for row in under_load(rows)]
    return times_s[0] + WARM_UP_SHARE * (times_s[-1] - times_s[0])


def process_names(rows: Iterable[Row]) -> list[str]:
    """Return the processes seen in any row, in order of appearance."""
    return list(
        dict.fromkeys(key.removesuffix(".pid") for row in rows for key in row if key.endswith(".pid"))
    )


def check_growth(rows: Sequence[Row], share: float = GROWTH_SHARE) -> dict[str, GrowthCheck]:
    """Check the growth of every figure that all rows under load contain.

    Args:
        rows: Samples in order of time.
        share: Allowed growth, as a share of the first value.

    Raises:
        ValueError: There are too few samples.
    """
    loaded = under_load(rows)
    kinds = {
        f"{name}.{figure}": kind for name in process_names(rows) for figure, kind in PROCESS_KINDS.items()
    }
    times_s = [row["time_s"] for row in loaded]
    found = {}
    for figure, kind in (kinds | SERVER_KINDS).items():
        if all(figure in row for row in loaded):
            growth = measure_growth(times_s, [row[figure] for row in loaded])
            found[figure] = GrowthCheck(growth, kind, max(share * growth.first, kind.min_allowed))
    return found


def soak_findings(
    rows: Sequence[Row], failures: Mapping[str, int] | None = None, share: float = GROWTH_SHARE
) -> list[Finding]:
    """Return every reason for which a soak fails.

    Args:
        rows: Samples in order of time.
        failures: Unexpected failures of the load, counted by text.
        share: Allowed growth, as a share of the first value.

    Raises:
        ValueError: There are too few samples.
    """
    found = _lost_processes(rows)
    found += [_grown(name, check) for name, check in check_growth(rows, share).items() if check.failed]
    found += _leftover_requests(rows)
    silent = [row["time_s"] for row in rows if "pending" not in row]
    if silent:
        text = f"no metrics in {len(silent)} samples, first at {silent[0]:.0f} s"
        found.append(Finding("server", text))
    return found + [
        Finding("load", f"{count} requests failed: {text}") for text, count in (failures or {}).items()
    ]


def _grown(name: str, check: GrowthCheck) -> Finding:
    subject, dot, figure = name.rpartition(".")
    growth, unit = check.growth, check.kind.unit
    figures = (growth.first, growth.last, growth.change, growth.per_hour, check.allowed)
    first, last, change, per_hour, allowed = (f"{value / check.kind.factor:.4g}" for value in figures)
    return Finding(
        subject if dot else "server",
        f"{figure} grew by {change} {unit} ({growth.share:.1%}) after the warm-up, limit {allowed} {unit}: "
        f"median {first} at the beginning, {last} at the end, trend {per_hour} per hour",
    )


def _lost_processes(rows: Sequence[Row]) -> list[Finding]:
    found = []
    for name in process_names(rows):
        missing = [row["time_s"] for row in rows if f"{name}.pid" not in row]
        pids = dict.fromkeys(int(row[f"{name}.pid"]) for row in rows if f"{name}.pid" in row)
        if missing:
            text = f"the process was missing in {len(missing)} samples, first at {missing[0]:.0f} s"
            found.append(Finding(name, text))
        if len(pids) > 1:
            found.append(Finding(name, f"the process was replaced: process ids {', '.join(map(str, pids))}"))
    return found


def _leftover_requests(rows: Sequence[Row]) -> list[Finding]:
    """Find requests that are still in the server after all clients have left."""
    last = rows[-1]
    counts = {name: last.get(name, 0.0) for name in ("pending", "executing")}
    if not last.get(LOAD_ENDED) or not any(counts.values()):
        return []
    text = ", ".join(f"{count:.0f} {name}" for name, count in counts.items())
    return [Finding("server", f"requests remained in the server after the load had ended: {text}")]
