"""A real Prometheus, and promtool, for the files of `docker/monitoring`."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.helpers.programs import require
from tests.helpers.servers import ROOT
from tests.helpers.waiting import wait_until
from tritonclip_server.serving.launcher import free_port

MONITORING = ROOT / "docker" / "monitoring"
HOST = "127.0.0.1"
HOPELESS_S = 180


def require_prometheus() -> None:
    """Skip the test if Prometheus is not installed; fail in CI."""
    for program in ("prometheus", "promtool"):
        require(program, "prometheus")


def promtool(*arguments: object, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool with `text` as its standard input."""
    return subprocess.run(
        ["promtool", *map(str, arguments)], input=text, capture_output=True, text=True, check=False
    )


class Prometheus:
    """A running Prometheus; a context manager that waits until it is ready.

    Args:
        directory: Folder with `prometheus.yaml` and the rule files, also used for data.
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
        """Start Prometheus."""
        with self._log.open("w") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        try:
            wait_until(self._ready, self._log.read_text, HOPELESS_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop Prometheus."""
        self._process.terminate()
        self._process.wait(HOPELESS_S)

    def _ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=HOPELESS_S) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def ask(self, path: str, **parameters: object) -> Any:
        """Return the member `data` of a response of the HTTP API."""
        query = urllib.parse.urlencode({name: str(value) for name, value in parameters.items()})
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=HOPELESS_S) as reply:
            return json.load(reply)["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the current series of an expression, with `metric` and `value` of each."""
        return list(self.ask("query", query=expr)["result"])

    def value(self, expr: str) -> float:
        """Return the value of an expression with a single series."""
        (series,) = self.query(expr)
        return float(series["value"][1])

    def alerts(self, state: str = "firing") -> set[str]:
        """Return the names of the alerts in a state."""
        return {
            alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"] if alert["state"] == state
        }

    def wait_for_alerts(self, names: set[str]) -> None:
        """Wait until all these alerts fire."""
        wait_until(
            lambda: names <= self.alerts(),
            lambda: f"{names - self.alerts()} do not fire; alerts: {self.ask('alerts')}",
            HOPELESS_S,
            interval_s=0.2,
        )
