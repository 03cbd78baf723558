"""Report of a soak, from synthetic samples."""

import csv
import io
import json
from collections import Counter

import pytest
from loadtest.soaking.findings import MIB, soak_findings
from loadtest.soaking.locust_run import Failure, HistoryPoint
from loadtest.soaking.report import SoakResult, print_report, write_samples, write_summary
from PIL import Image
from rich.console import Console


def synthetic_result(leak_bytes=0, ends_at_s=1e9):
    """Return 200 seconds of a server with one stub, which may leak memory or exit."""
    rows = []
    for time_s in range(0, 200, 5):
        row = {"time_s": float(time_s), "pending": 0.0, "executing": 1.0, "regions_bytes": 4.0 * MIB}
        row |= {"label_cache_bytes": MIB, "succeeded": 10.0 * time_s, "failed": time_s / 5}
        for name, pid, own in (("tritonserver", 1.0, 0), ("stub_0_0", 2.0, leak_bytes)):
            if name == "stub_0_0" and time_s > ends_at_s:
                continue
            taken = {"private_bytes": 100 * MIB + own * time_s, "resident_bytes": 150 * MIB + own * time_s}
            figures = {"pid": pid, "pss_bytes": 120.0 * MIB, "handles": 4.0, "threads": 9.0, **taken}
            row |= {f"{name}.{figure}": value for figure, value in figures.items()}
        rows.append(row)
    failures = Counter({Failure("classify - rejected", "RequestFailedError('rejected: overloaded')"): 3})
    points = [HistoryPoint(float(at), 8, 20.0, 90.0) for at in range(200)]
    return SoakResult(
        settings={"minutes": 3.3},
        rows=rows,
        histories={"grpc": points, "http": points},
        requests={"grpc": 900, "http": 800},
        failures=failures,
        hang_ups=Counter({"gRPC, cancelled": 7}),
        findings=soak_findings(rows),
        growth_share=0.02,
    )


def printed(result):
    console = Console(file=io.StringIO(), width=200, highlight=False)
    print_report(result, console)
    return console.file.getvalue()


def test_report_without_growth_passes():
    text = printed(synthetic_result())
    assert "passed: no growth" in text
    assert "requests over grpc: 900" in text
    assert "failed, 3 times: classify - rejected" in text
    assert "clients that disconnected, gRPC, cancelled: 7" in text


def test_report_names_process_and_figure_of_a_leak():
    text = printed(synthetic_result(leak_bytes=MIB))
    assert "FAILED stub_0_0: private_bytes grew by 125 MiB" in text
    assert "FAILED tritonserver" not in text
    (flat,) = [line.split() for line in text.splitlines() if "tritonserver" in line]
    assert flat[:4] == ["tritonserver", "100.0→100.0", "+0.00%", "+0.00"]


def test_report_names_an_exited_process():
    result = synthetic_result(ends_at_s=100)
    assert "FAILED stub_0_0: the process was missing in 19 samples" in printed(result)


def test_summary_contains_every_figure(tmp_path):
    write_summary(synthetic_result(leak_bytes=MIB), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    leak = summary["growth"]["stub_0_0.private_bytes"]
    assert leak["last"] - leak["first"] == pytest.approx(125 * MIB)
    assert {finding["subject"] for finding in summary["findings"]} == {"stub_0_0"}
    markdown = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "| stub_0_0 | 1" in markdown
    assert "FAILED stub_0_0" in markdown


def test_samples_of_an_exited_process_are_empty(tmp_path):
    write_samples(synthetic_result(ends_at_s=100).rows, tmp_path / "samples.csv")
    with (tmp_path / "samples.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert rows[0]["stub_0_0.handles"] == "4.0"
    assert rows[-1]["stub_0_0.handles"] == ""


def test_plots_of_an_exited_process_are_not_blank(tmp_path):
    from loadtest.soaking.plots import write_plots  # imports matplotlib

    result = synthetic_result(ends_at_s=100)
    write_plots(result.rows, result.histories, tmp_path / "soak.png")
    with Image.open(tmp_path / "soak.png") as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(maxcolors=10**6)) > 10
