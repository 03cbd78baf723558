"""A real Prometheus and its promtool, on the files of `docker/monitoring`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.servers import ROOT
from tests.helpers.waiting import wait_until
from tritonclip_server.serving.launcher import free_port

MONITORING = ROOT / "docker" / "monitoring"
HOST = "127.0.0.1"
PATIENCE_S = 30


def require_prometheus() -> None:
    """Skips where there is no Prometheus; in CI there must be one."""
    for program in ("prometheus", "promtool"):
        if shutil.which(program) is None:
            assert "CI" not in os.environ, f"{program} not found: apt-get install prometheus"
            pytest.skip(f"{program} not found: apt-get install prometheus")


def promtool(*arguments: object, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs promtool, with `text` as its standard input."""
    return subprocess.run(
        ["promtool", *map(str, arguments)], input=text, capture_output=True, text=True, check=False
    )


class Prometheus:
    """A running Prometheus; a context manager that is ready inside.

    Args:
        directory: Holds `prometheus.yaml` and the rule files; its data go there too.
    """

    def __init__(self, directory: Path) -> None:
        self.url = f"http://{HOST}:{free_port(HOST)}"
        self._log = directory / "log"
        self._command = [
            "prometheus",
            f"--config.file={directory / 'prometheus.yaml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--log.level=warn",
        ]

    def __enter__(self) -> Prometheus:
        """Starts it."""
        with self._log.open("w") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        try:
            wait_until(self._ready, self._log.read_text)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(PATIENCE_S)

    def _ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=PATIENCE_S) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def ask(self, path: str, **parameters: object) -> Any:
        """What the HTTP API answers: the member `data`."""
        query = urllib.parse.urlencode({name: str(value) for name, value in parameters.items()})
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=PATIENCE_S) as reply:
            return json.load(reply)["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series that an expression has now: `metric` and `value` of each."""
        return list(self.ask("query", query=expr)["result"])

    def value(self, expr: str) -> float:
        """The value of an expression that has one series."""
        (series,) = self.query(expr)
        return float(series["value"][1])

    def alerts(self, state: str = "firing") -> set[str]:
        """The names of the alerts in a state."""
        return {
            alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"] if alert["state"] == state
        }

    def wait_for_alerts(self, names: Sequence[str], patience_s: float = PATIENCE_S) -> None:
        """Waits until all of these fire."""
        wait_until(
            lambda: set(names) <= self.alerts(),
            lambda: f"{set(names) - self.alerts()} do not fire, but {self.ask('alerts')}",
            patience_s,
        )
