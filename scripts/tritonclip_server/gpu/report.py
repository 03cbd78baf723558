"""The results of the GPU benchmark as Markdown, and the short form of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

Rows = list[dict[str, Any]]
ENCODER_SHARE, DECODING_SHARE = 0.45, 0.85
"""Targets: of the measured bfloat16 matrix product rate, and of the images/s that decoding allows."""
SUMMARY_KEYS = ("precision", "count", "processes", "threads", "decoders", "callers", "images", "share")


def report(content: dict[str, dict[str, Any]]) -> str:
    """All results as Markdown: the summary, then each part's facts and tables."""
    lines = ["# Measured", "", *summary(content)]
    for part, facts in content.items():
        lines += ["", f"## {part}", ""]
        lines += [f"- {name}: {_shown(value)}" for name, value in facts.items() if not _is_table(value)]
        for name, rows in facts.items():
            if _is_table(rows):
                lines += ["", f"{name}:", "", *_table(rows)]
    return "\n".join(lines)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _table(rows: Rows) -> list[str]:
    names = list(rows[0])
    body = [[_shown(row.get(name)) for name in names] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *body)]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.4e}"
    return str(value).replace("|", "/").replace("\n", " ")


def summary(content: dict[str, dict[str, Any]]) -> list[str]:
    """The figures that count against their targets, one a line; what is not there is left out."""
    lines = []
    comparisons = content.get("correctness", {}).get("comparisons", [])
    for precision in dict.fromkeys(row["precision"] for row in comparisons):
        rows = [row for row in comparisons if row["precision"] == precision]
        wrong = sum(not row["right"] for row in rows)
        worst, least = (
            pick(row[key] for row in rows) for pick, key in ((_worst, "score_error"), (_least, "cosine"))
        )
        lines.append(
            f"{precision}: {len(rows)} compared, {wrong} wrong; score error {worst:.2g}, cosine {least:.7f}"
        )
    best = {
        name: max(rows, key=lambda row: row["images_s"])
        for name, rows in (
            *_by(content, "encoder", "passes", "path"),
            *_by(content, "host", "decoding"),
            *_by(content, "ensemble", "loads", "model"),
            *_by(content, "nvjpeg", "decoding"),
        )
    }
    for name, row in best.items():
        rest = ", ".join(
            f"{key} {_shown(value)}" for key, value in row.items() if key in SUMMARY_KEYS and value
        )
        lines.append(f"{name}: {row['images_s']:.0f} images/s ({rest})")
    shares = [row["share"] for row in content.get("encoder", {}).get("passes", []) if row["share"]]
    if shares:
        lines.append(
            f"encoder's share of the matrix product rate: {max(shares):.1%} (target {ENCODER_SHARE:.0%})"
        )
    if "host decoding" in best and "ensemble clip_zero_shot" in best:
        share = best["ensemble clip_zero_shot"]["images_s"] / best["host decoding"]["images_s"]
        lines.append(f"ensemble's share of what decoding allows: {share:.1%} (target {DECODING_SHARE:.0%})")
    failed = [f"{part} failed: {facts['failed']}" for part, facts in content.items() if "failed" in facts]
    return [f"- {line}" for line in lines + failed]


def _worst(values: Iterable[float]) -> float:
    return float(np.max(list(values)))  # NaN where one is, unlike max()


def _least(values: Iterable[float]) -> float:
    return float(np.min(list(values)))


def _by(
    content: dict[str, dict[str, Any]], part: str, table: str, key: str | None = None
) -> Iterator[tuple[str, Rows]]:
    """The rows of a table by one of their values, under a name; all of them without one."""
    rows = content.get(part, {}).get(table, [])
    for value in dict.fromkeys(row[key] if key else table for row in rows):
        yield f"{part} {value}", [row for row in rows if not key or row[key] == value]
