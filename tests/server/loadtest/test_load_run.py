"""The load test against the real server."""

from __future__ import annotations

import csv
import importlib.util
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from tests.helpers.gateway import run_gateway
from tests.helpers.load_runs import ENDLESS_S, requires_locust, start_load, urls
from tests.helpers.servers import ROOT
from tests.helpers.waiting import wait_until
from tritonclip_server.serving.launcher import EmbeddedTriton

PROTOCOLS = ("grpc", "http", "gateway")
BAD = "bad request: "


def names_by_protocol(report: Path) -> dict[str, set[str]]:
    """Return the names of the requests that a report counts, each bad request as BAD."""
    found: dict[str, set[str]] = {protocol: set() for protocol in PROTOCOLS}
    if report.exists():
        with report.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                name = row["Name"]
                found.setdefault(row["Type"], set()).add(BAD if name.startswith(BAD) else name)
    return found


@requires_locust
def test_successful_run_exits_with_0_and_writes_reports(server: EmbeddedTriton, tmp_path: Path) -> None:
    wanted, report = {"classify", "embed_images", BAD}, tmp_path / "report_stats.csv"

    def is_complete() -> bool:
        return process.poll() is not None or all(
            wanted <= names_by_protocol(report)[protocol] for protocol in PROTOCOLS
        )

    with (
        run_gateway(server.grpc_url) as gateway,
        start_load(
            *urls(server), "--protocol", ",".join(PROTOCOLS), "--users", 3, "--run-time-s", ENDLESS_S,
            "--max-p99-ms", 1000 * ENDLESS_S, "--output", tmp_path,
            BAD_SHARE="0.3", PICTURES="4", PACE_S="0.1", DEADLINE_S="120",
            environ={"TRITONCLIP_GATEWAY_URL": gateway.url},
        ) as process,
    ):  # fmt: skip
        try:
            wait_until(is_complete, lambda: f"only {names_by_protocol(report)}", timeout_s=120)
            for locust in psutil.Process(process.pid).children():
                locust.send_signal(signal.SIGINT)
            out, err = process.communicate()
        finally:
            process.terminate()
    assert process.returncode == 0, out + err
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
    names = names_by_protocol(report)
    for protocol in PROTOCOLS:
        assert wanted <= names[protocol]
        assert not any(" - " in name for name in names[protocol])


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The command of loadtest/run.py, which replaces the handler of SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.syspath_prepend(ROOT / "loadtest")
    spec = importlib.util.spec_from_file_location("loadtest_run", ROOT / "loadtest" / "run.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.main
    signal.signal(signal.SIGTERM, before)


def test_run_without_a_server_is_a_usage_error(command: Any, tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["--output", str(tmp_path)])
    assert done.exit_code == 2
    assert "give --repository" in done.stderr


def test_malformed_setting_is_reported(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITONCLIP_LOAD_BAD_SHARE", "2")
    done = CliRunner().invoke(command, ["--url", "127.0.0.1:1", "--output", str(tmp_path)])
    assert done.exit_code == 1
    assert "TRITONCLIP_LOAD_BAD_SHARE='2': expected a number from 0 to 1" in done.stderr
