"""Judges the series of a soak: what grew, what was replaced, what was answered wrongly.

Pure: rows of samples in, findings out. A row holds figures by name, `PROCESS.FIGURE` for those of a process.
What is sampled stands in `soak_samples.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MIB = 2**20
GROWTH_SHARE = 0.02
"""Growth after the warm-up that is allowed, as a share of the first value."""
WARM_UP_SHARE = 0.2
"""Share of the time that is left out of the judgment: caches, arenas and connections fill up meanwhile."""
END_SHARE = 0.2
"""Share of what follows the warm-up that makes up its beginning, and its end."""
MOST_POINTS = 400
"""Longer series are condensed to so many medians: the trend looks at every pair of points."""
LEAST_POINTS = 5
LOAD_ENDED = "load_ended"
"""Figure of a row that was sampled after the load had ended."""

Row = Mapping[str, float]


@dataclass(frozen=True)
class Kind:
    """A kind of figure that is judged.

    Attributes:
        unit: `MiB` for figures in bytes, else what is counted.
        least: Growth that is always allowed, in bytes or counts: a page or a handle more is no leak.
    """

    unit: str
    least: float

    @property
    def factor(self) -> int:
        """What the figure is divided by to have its unit."""
        return MIB if self.unit == "MiB" else 1


PROCESS_KINDS = {
    # Resident memory is this and the pages of files, which the kernel takes and gives back as it likes.
    "private_bytes": Kind("MiB", 2 * MIB),
    # Each of the load's users opens a second connection at its first bad request.
    "handles": Kind("file handles", 16),
    "threads": Kind("threads", 2),
}
"""What is judged of every process."""
SERVER_KINDS = {
    # Each model instance has a region, which grows by steps of a MiB to the most that it ever had to hold at
    # once, and never shrinks; not all have met their largest batch by the end of the warm-up.
    "regions_bytes": Kind("MiB", 4 * MIB),
    "label_cache_bytes": Kind("MiB", 0),
}
"""What is judged of the server and belongs to no one process."""


@dataclass(frozen=True)
class Growth:
    """How a figure went after the warm-up.

    Attributes:
        first: Median at the beginning.
        last: Median at the end.
        trend: What the Theil-Sen slope adds up to from the middle of the beginning to that of the end.
        span_s: Seconds between these two middles.
    """

    first: float
    last: float
    trend: float
    span_s: float

    @property
    def change(self) -> float:
        """The larger of the two readings: the medians see a step, the slope a slow leak in noise."""
        return max(self.last - self.first, self.trend)

    @property
    def share(self) -> float:
        """The change as a share of the first value."""
        return self.change / self.first if self.first else 0.0

    @property
    def per_hour(self) -> float:
        """The slope, in the figure's unit an hour."""
        return 3600 * self.trend / self.span_s


@dataclass(frozen=True)
class Judged:
    """A figure's growth and what it may be.

    Attributes:
        growth: In bytes or counts, as the figure is.
        kind: Of the figure.
        allowed: Largest growth that passes, in bytes or counts.
    """

    growth: Growth
    kind: Kind
    allowed: float

    @property
    def grew(self) -> bool:
        """Whether it grew by more than is allowed."""
        return self.growth.change > self.allowed


@dataclass(frozen=True)
class Finding:
    """Something that fails the soak.

    Attributes:
        subject: The process, or `server`, or `load`.
        text: What was found, with its figure and its limit.
    """

    subject: str
    text: str


def measure_growth(
    times_s: Sequence[float], values: Sequence[float], warm_up_share: float = WARM_UP_SHARE
) -> Growth:
    """Measures how a series went after the warm-up; spikes and saw teeth change nothing.

    Args:
        times_s: Ascending, the warm-up's samples included.
        values: The figure at these times.
        warm_up_share: Share of the time that is left out.

    Raises:
        ValueError: Too few samples after the warm-up.
    """
    times, series = np.asarray(times_s, float), np.asarray(values, float)
    kept = times >= times[0] + warm_up_share * (times[-1] - times[0]) if len(times) else times > 0
    times, series = times[kept], series[kept]
    if len(times) < LEAST_POINTS:
        raise ValueError(
            f"{len(times)} samples after the warm-up, at least {LEAST_POINTS} are needed: soak longer, or "
            "sample more often"
        )
    ends = END_SHARE * (times[-1] - times[0])
    at_first, at_last = times <= times[0] + ends, times >= times[-1] - ends
    span_s = float(np.median(times[at_last]) - np.median(times[at_first]))
    first, last = float(np.median(series[at_first])), float(np.median(series[at_last]))
    return Growth(first, last, theil_sen(*condense(times, series)) * span_s, span_s)


def theil_sen(times: np.ndarray, values: np.ndarray) -> float:
    """The median of the slopes of all pairs of points.

    Source: Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau", JASA 63 (1968).
    """
    earlier, later = np.triu_indices(len(times), 1)
    return float(np.median((values[later] - values[earlier]) / (times[later] - times[earlier])))


def condense(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most MOST_POINTS points: the medians of neighbours."""
    parts = min(len(times), MOST_POINTS)
    groups = zip(np.array_split(times, parts), np.array_split(values, parts), strict=True)
    pairs = np.array([(np.median(some), np.median(figures)) for some, figures in groups])
    return pairs[:, 0], pairs[:, 1]


def under_load(rows: Iterable[Row]) -> list[Row]:
    """The rows that were sampled while there was load."""
    return [row for row in rows if not row.get(LOAD_ENDED)]


def warm_up_end_s(rows: Iterable[Row]) -> float:
    """When the warm-up of these rows is over, in their time."""
    times_s = [row["time_s"] for row in under_load(rows)]
    return times_s[0] + WARM_UP_SHARE * (times_s[-1] - times_s[0])


def process_names(rows: Iterable[Row]) -> list[str]:
    """The processes seen in any row, in the order of their appearance."""
    return list(
        dict.fromkeys(key.removesuffix(".pid") for row in rows for key in row if key.endswith(".pid"))
    )


def growths(rows: Sequence[Row], share: float = GROWTH_SHARE) -> dict[str, Judged]:
    """The growth of each judged figure that stands in every row under load.

    Args:
        rows: Samples in the order of time.
        share: Growth that is allowed, as a share of the first value.

    Raises:
        ValueError: Too few samples.
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
            found[figure] = Judged(growth, kind, max(share * growth.first, kind.least))
    return found


def judge(
    rows: Sequence[Row], failures: Mapping[str, int] | None = None, share: float = GROWTH_SHARE
) -> list[Finding]:
    """Everything that fails a soak.

    Args:
        rows: Samples in the order of time.
        failures: The load's failures that no server should give, by their text.
        share: Growth that is allowed, as a share of the first value.

    Raises:
        ValueError: Too few samples.
    """
    found = _replaced(rows)
    found += [_grown(name, judged) for name, judged in growths(rows, share).items() if judged.grew]
    found += _left_inside(rows)
    silent = [row["time_s"] for row in rows if "pending" not in row]
    if silent:
        text = f"it did not give its metrics for {len(silent)} samples, first at {silent[0]:.0f} s"
        found.append(Finding("server", text))
    return found + [
        Finding("load", f"{count} requests failed: {text}") for text, count in (failures or {}).items()
    ]


def _grown(name: str, judged: Judged) -> Finding:
    subject, dot, figure = name.rpartition(".")
    growth, unit = judged.growth, judged.kind.unit
    figures = (growth.first, growth.last, growth.change, growth.per_hour, judged.allowed)
    first, last, change, per_hour, allowed = (f"{value / judged.kind.factor:.4g}" for value in figures)
    return Finding(
        subject if dot else "server",
        f"{figure} grew by {change} {unit} ({growth.share:.1%}) after the warm-up, {allowed} are "
        f"allowed: median {first} at its beginning, {last} at its end, trend {per_hour} an hour",
    )


def _replaced(rows: Sequence[Row]) -> list[Finding]:
    found = []
    for name in process_names(rows):
        missing = [row["time_s"] for row in rows if f"{name}.pid" not in row]
        pids = dict.fromkeys(int(row[f"{name}.pid"]) for row in rows if f"{name}.pid" in row)
        if missing:
            found.append(
                Finding(
                    name, f"the process was missing in {len(missing)} samples, first at {missing[0]:.0f} s"
                )
            )
        if len(pids) > 1:
            found.append(
                Finding(name, f"the process was replaced: process ids {', '.join(map(str, pids))} in turn")
            )
    return found


def _left_inside(rows: Sequence[Row]) -> list[Finding]:
    """Requests that are still in the server although nobody waits for them any more."""
    last = rows[-1]
    counts = {name: last.get(name, 0.0) for name in ("pending", "executing")}
    if not last.get(LOAD_ENDED) or not any(counts.values()):
        return []
    text = ", ".join(f"{count:.0f} {name}" for name, count in counts.items())
    return [Finding("server", f"requests were left inside after the load had ended: {text}")]
