"""Results of the GPU benchmark as Markdown, and their summary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

Rows = list[dict[str, Any]]
ENCODER_SHARE, DECODING_SHARE = 0.45, 0.85
"""Targets, as shares of the bfloat16 matrix product rate and of the decoding rate, both measured."""
SUMMARY_KEYS = ("precision", "count", "processes", "threads", "decoders", "callers", "images", "share")


def report(content: dict[str, dict[str, Any]]) -> str:
    """Format all results as Markdown: the summary, then facts and tables of each part."""
    lines = ["# Measured", "", *summary(content)]
    for part, facts in content.items():
        lines += ["", f"## {part}", ""]
        lines += [f"- {name}: {_format(value)}" for name, value in facts.items() if not _is_table(value)]
        for name, rows in facts.items():
            if _is_table(rows):
                lines += ["", f"{name}:", "", *_table(rows)]
    return "\n".join(lines)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _table(rows: Rows) -> list[str]:
    names = list(rows[0])
    body = [[_format(row.get(name)) for name in names] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *body)]


def _format(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.4e}"
    return str(value).replace("|", "/").replace("\n", " ")


def summary(content: dict[str, dict[str, Any]]) -> list[str]:
    """Format the main figures and their targets, one per line. Figures that are missing are left out."""
    lines = []
    comparisons = content.get("correctness", {}).get("comparisons", [])
    for precision in dict.fromkeys(row["precision"] for row in comparisons):
        rows = [row for row in comparisons if row["precision"] == precision]
        wrong = sum(not row["right"] for row in rows)
        worst, least = (
            pick(row[key] for row in rows) for pick, key in ((_worst, "score_error"), (_least, "cosine"))
        )
        lines.append(
            f"{precision}: {len(rows)} comparisons, {wrong} wrong; largest score error {worst:.2g}, "
            f"least cosine {least:.7f}"
        )
    best = {
        name: max(rows, key=lambda row: row["images_s"])
        for name, rows in (
            *_rows_by(content, "encoder", "passes", "path"),
            *_rows_by(content, "host", "decoding"),
            *_rows_by(content, "ensemble", "loads", "model"),
        )
    }
    for name, row in best.items():
        rest = ", ".join(
            f"{key} {_format(value)}" for key, value in row.items() if key in SUMMARY_KEYS and value
        )
        lines.append(f"{name}: {row['images_s']:.0f} images/s ({rest})")
    shares = [row["share"] for row in content.get("encoder", {}).get("passes", []) if row["share"]]
    if shares:
        lines.append(
            f"encoder, share of the matrix product rate: {max(shares):.1%} (target {ENCODER_SHARE:.0%})"
        )
    if "host decoding" in best and "ensemble clip_zero_shot" in best:
        share = best["ensemble clip_zero_shot"]["images_s"] / best["host decoding"]["images_s"]
        lines.append(f"ensemble, share of the decoding rate: {share:.1%} (target {DECODING_SHARE:.0%})")
    failed = [f"{part} failed: {facts['failed']}" for part, facts in content.items() if "failed" in facts]
    return [f"- {line}" for line in lines + failed]


def _worst(values: Iterable[float]) -> float:
    return float(np.max(list(values)))  # NaN if any value is NaN, unlike max()


def _least(values: Iterable[float]) -> float:
    return float(np.min(list(values)))


def _rows_by(
    content: dict[str, dict[str, Any]], part: str, table: str, key: str | None = None
) -> Iterator[tuple[str, Rows]]:
    """Yield the rows of a table grouped by the value of `key`, or all rows without a key."""
    rows = content.get(part, {}).get(table, [])
    for value in dict.fromkeys(row[key] if key else table for row in rows):
        yield f"{part} {value}", [row for row in rows if not key or row[key] == value]
