"""The comparison with the peers: this system's throughput divided by theirs, for each load."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from tritonclip_server.benchmarks import workload
from tritonclip_server.benchmarks.serving.measurements import (
    CALLERS,
    DEFAULT,
    INFINITY,
    INT8,
    LARGE,
    MIX,
    PICTURES_CALLERS,
    SERVERS,
)
from tritonclip_server.benchmarks.serving.roofline import Rounds, column, ratio

_PHOTO = "{} x {}".format(*workload.PHOTO_SIZE)
_MEGAPIXELS = round(workload.LARGE_PHOTO_SIZE[0] * workload.LARGE_PHOTO_SIZE[1] / 1e6)
_MOST = f"{PICTURES_CALLERS} callers"
LOADS = {
    "1": f"{_PHOTO}, 1 caller",
    **{str(callers): f"{_PHOTO}, {callers} callers" for callers in CALLERS[1:]},
    LARGE: f"{_MEGAPIXELS} megapixels, {_MOST}",
    MIX: f"mix, {_MOST}",
}
"""Title of each load by the end of its measurements' names."""
HEADINGS = ("images/s of this system (default / int8), divided by those of", *LOADS.values())
PEERS: Mapping[str, Mapping[str, str]] = {
    **{
        title: {load: f"{name}-{load}" for load in LOADS}
        for name, title in SERVERS.items()
        if name not in (DEFAULT, INT8)
    },
    "transformers pipeline, one by one": {str(callers): "pipeline-1" for callers in CALLERS},
    "transformers pipeline, batches of 16": {
        **{str(callers): "pipeline-16" for callers in CALLERS[1:]},
        LARGE: "pipeline-large",
        MIX: "pipeline-mix",
    },
}
"""Measurement of each peer by load."""
EMBEDDING_LOADS = {str(callers): f"embed-{callers}" for callers in CALLERS}


def comparison_rows(rounds: Rounds) -> list[list[str]]:
    """Return the rates of this system, and one row of ratios per measured peer, with the columns `HEADINGS`.

    A cell has the median of the ratios of all rounds, for this system's defaults and for `precision=int8` if
    that was measured. It is empty if the peer or this system was not measured under this load.
    """
    own = {load: [f"{name}-{load}" for name in (DEFAULT, INT8)] for load in LOADS}
    rows = [["(images/s)", *(_rates(rounds, own[load]) for load in LOADS)]]
    for title, names in PEERS.items():
        rows.append([title, *(_ratios(rounds, own[load], names.get(load, "")) for load in LOADS)])
    embedding = []
    for load in LOADS:
        end = EMBEDDING_LOADS.get(load, "")
        ours = [f"{name}-{end}" for name in (DEFAULT, INT8)]
        embedding.append(_ratios(rounds, ours, f"{INFINITY}-{end}"))
    rows.append(["infinity, image embeddings", *embedding])
    return [row for row in rows if any(row[1:])]


def number(value: float) -> str:
    """Format with three significant digits, or all digits before the decimal point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _rates(rounds: Rounds, own: list[str]) -> str:
    return " / ".join(number(median(column(rounds, name))) for name in own if name in rounds)


def _ratios(rounds: Rounds, own: list[str], peer: str) -> str:
    if peer not in rounds or not all(column(rounds, peer)):
        return ""
    return " / ".join(
        number(median(ratio(column(rounds, name), column(rounds, peer)))) for name in own if name in rounds
    )
