"""Report of a soak as a table, Markdown and JSON, and all samples as CSV."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from .findings import MIB, WARM_UP_SHARE, Finding, Growth, GrowthCheck, Row, check_growth, process_names
from .locust_run import Failure, HistoryPoint

COLUMNS = ("process", "private, MiB", "change", "MiB/h", "handles", "threads")
SERVER_FIGURES = {
    "regions_bytes": "shared regions in /dev/shm",
    "label_cache_bytes": "label cache",
}


@dataclass(frozen=True)
class SoakResult:
    """Result of a soak.

    Attributes:
        settings: Settings by name.
        rows: Samples in order of time.
        histories: Latencies of the load, by protocol.
        requests: Number of requests of the load, by protocol.
        failures: Failures of the load, including rejections by the overloaded server.
        hang_ups: Number of clients that disconnected, by kind.
        findings: Reasons for which the soak fails.
        growth_share: Allowed growth, as a share.
    """

    settings: dict[str, float | str]
    rows: list[dict[str, float]]
    histories: dict[str, list[HistoryPoint]]
    requests: dict[str, int]
    failures: Counter[Failure]
    hang_ups: Counter[str]
    findings: list[Finding]
    growth_share: float


def write_samples(rows: Sequence[Row], path: Path) -> None:
    """Write all samples as CSV. The figures of an exited process are empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_summary(result: SoakResult, directory: Path) -> None:
    """Write `summary.json` and `summary.md`."""
    checks = check_growth(result.rows, result.growth_share)
    document = {
        "settings": result.settings,
        "growth": {name: {**asdict(one.growth), "allowed": one.allowed} for name, one in checks.items()},
        "requests": result.requests,
        "failures": {str(failure): count for failure, count in result.failures.items()},
        "hang_ups": result.hang_ups,
        "findings": [asdict(finding) for finding in result.findings],
    }
    text = json.dumps(document, indent=2, ensure_ascii=False)
    (directory / "summary.json").write_text(text + "\n", encoding="utf-8")
    (directory / "summary.md").write_text(_markdown(result, checks), encoding="utf-8")


def print_report(result: SoakResult, console: Console) -> None:
    """Print the table, the numbers of requests, and the findings."""
    checks = check_growth(result.rows, result.growth_share)
    title = "After the warm-up: medians at the beginning and at the end"
    table = Table(*COLUMNS, title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    failed = {finding.subject for finding in result.findings}
    for cells in _process_lines(result, checks):
        table.add_row(*cells, style="red" if cells[0] in failed else None)
    console.print(table)
    for line in [*_server_lines(checks), *_load_lines(result)]:
        console.print(line, markup=False)
    for line in _verdict_lines(result):
        console.print(line, markup=False, style="red" if result.findings else "green")


def _markdown(result: SoakResult, checks: dict[str, GrowthCheck]) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in result.settings.items())
    lines = [
        "# Soak",
        "",
        settings,
        "",
        f"Medians at the beginning and at the end of the time after the warm-up ({WARM_UP_SHARE:.0%}).",
        "",
    ]
    lines += [f"| {' | '.join(cells)} |" for cells in (COLUMNS, ("---",) * len(COLUMNS))]
    lines += [f"| {' | '.join(cells)} |" for cells in _process_lines(result, checks)]
    lines += ["", *(f"- {line}" for line in [*_server_lines(checks), *_load_lines(result)])]
    return "\n".join([*lines, "", *_verdict_lines(result), "", "![over time](soak.png)", ""])


def _process_lines(result: SoakResult, checks: dict[str, GrowthCheck]) -> list[tuple[str, ...]]:
    lines = []
    for name in process_names(result.rows):
        found = [checks.get(f"{name}.{figure}") for figure in ("private_bytes", "handles", "threads")]
        growths_found = [one.growth for one in found if one is not None]
        if len(growths_found) < len(found):
            lines.append((name, "exited", *("",) * (len(COLUMNS) - 2)))
            continue
        private, handles, threads = growths_found
        lines.append(
            (
                name,
                _from_to(private, MIB),
                f"{private.share:+.2%}",
                f"{private.per_hour / MIB:+.2f}",
                _from_to(handles),
                _from_to(threads),
            )
        )
    return lines


def _from_to(growth: Growth, factor: int = 1) -> str:
    digits = 1 if factor > 1 else 0
    return f"{growth.first / factor:.{digits}f}→{growth.last / factor:.{digits}f}"


def _server_lines(checks: dict[str, GrowthCheck]) -> list[str]:
    return [
        f"{title}: {growth.first / MIB:.2f} → {growth.last / MIB:.2f} MiB"
        for figure, title in SERVER_FIGURES.items()
        if figure in checks
        for growth in [checks[figure].growth]
    ]


def _load_lines(result: SoakResult) -> list[str]:
    lines = [f"requests over {protocol}: {count}" for protocol, count in result.requests.items()]
    lines += [f"clients that disconnected, {way}: {count}" for way, count in sorted(result.hang_ups.items())]
    return lines + [f"failed, {count} times: {text}" for text, count in result.failures.most_common()]


def _verdict_lines(result: SoakResult) -> list[str]:
    if not result.findings:
        return ["passed: no growth, no lost process, no wrong answer"]
    return [f"FAILED {finding.subject}: {finding.text}" for finding in result.findings]
