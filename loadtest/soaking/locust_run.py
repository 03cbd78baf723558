"""Load of a soak: one locust process per protocol, at a steady rate with bursts, and its report."""

from __future__ import annotations

import contextlib
import csv
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LOCUSTFILE = ROOT / "loadtest" / "locustfile.py"
PROTOCOLS = ("grpc", "http")
USERS = 8
"""Users of each protocol between bursts."""
BURST_FACTOR = 6
"""Factor by which a burst multiplies the users, who keep their pace."""
BURST_SHARE = 0.1
"""Share of the time taken by the bursts of a protocol."""
MIN_PERIODS = 10
"""Lowest number of bursts per protocol, so that two are over by the end of the warm-up."""
MAX_PERIOD_S = 60.0
START_TIMEOUT_S = 120.0
"""Longest time until a process sends requests. Drawing its pictures takes a while on a busy machine."""
END_TIMEOUT_S = 30.0
"""Longest time from the last stage to the end of the process, which waits for its requests."""
KILL_TIMEOUT_S = 5.0
AGGREGATED = "Aggregated"
EXPECTED_RESULTS = (" - rejected", " - deadline")
"""Endings of request names that overload explains. The bursts overload the server on purpose."""


class LoadError(RuntimeError):
    """Locust did not run; the text ends with the last lines of its log."""


@dataclass(frozen=True)
class ServerAddresses:
    """gRPC and HTTP address of the server, each host:port."""

    grpc: str
    http: str


@dataclass(frozen=True)
class HistoryPoint:
    """One line of locust's history, over all requests.

    Attributes:
        time_s: Seconds since the start of the load.
        users: Number of users at that time.
        p50_ms: Median latency of the last seconds.
        p99_ms: 99th percentile of the latency of the last seconds.
    """

    time_s: float
    users: int
    p50_ms: float
    p99_ms: float


class Failure(NamedTuple):
    """Kind of failure in locust's report: name of the request, and error."""

    name: str
    error: str

    @property
    def is_expected(self) -> bool:
        """True if overload explains the failure."""
        return self.name.endswith(EXPECTED_RESULTS)

    def __str__(self) -> str:
        return f"{self.name}: {self.error}"


class LocustProcess:
    """A headless locust process for one protocol.

    Args:
        protocol: `grpc` or `http`.
        addresses: Addresses of the server.
        directory: Folder for the log and locust's CSV files, which are named by the protocol.
        stages: Users and seconds of each stage.
        pace_s: Seconds between the starts of a user's requests; 0 sends the next request after each answer.
        seed: Seed of the requests.
    """

    def __init__(
        self,
        protocol: str,
        addresses: ServerAddresses,
        directory: Path,
        stages: Sequence[tuple[int, float]],
        pace_s: float,
        seed: int,
    ) -> None:
        self.protocol = protocol
        self._prefix = directory / protocol
        settings = {
            "PROTOCOL": protocol,
            "GRPC_URL": addresses.grpc,
            "HTTP_URL": f"http://{addresses.http}",
            "SHAPE": "stages",
            "STAGES": ",".join(f"{users}:{seconds:g}" for users, seconds in stages),
            "PACE_S": f"{pace_s:g}",
            "SEED": str(seed),
        }
        environment = dict(os.environ) | {
            f"TRITONCLIP_LOAD_{name}": value for name, value in settings.items()
        }
        command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
        command += ["--csv", str(self._prefix), "--csv-full-history", "--stop-timeout", "10"]
        with self._path("log.txt").open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._length_s = sum(seconds for _, seconds in stages)
        self._over_at = time.monotonic() + START_TIMEOUT_S + self._length_s

    def is_running(self) -> bool:
        """Return True while the process sends requests."""
        return self._process.poll() is None and time.monotonic() < self._over_at

    def has_started(self) -> bool:
        """Return True after the first completed requests.

        Raises:
            LoadError: The process exited, or did not send a request in time.
        """
        history = self._path("stats_history.csv")
        if history.exists() and any(int(line["Total Request Count"]) for line in _table(history)):
            self._over_at = min(self._over_at, time.monotonic() + self._length_s)
            return True
        if not self.is_running():
            self.wait()
            raise LoadError(f"locust ({self.protocol}) sent no requests:\n{self.log()}")
        return False

    def wait(self) -> None:
        """Wait until all stages are over.

        Kill a process that has written its report but does not exit: gRPC can hang at interpreter shutdown.

        Raises:
            LoadError: The process exited without a report.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, self._over_at - time.monotonic()) + END_TIMEOUT_S)
        self.stop()
        if not self._path("stats.csv").exists():
            raise LoadError(
                f"locust ({self.protocol}) exited with code {self._process.returncode} and no report:\n"
                f"{self.log()}"
            )

    def stop(self) -> None:
        """Terminate the process, or kill it if that fails."""
        for end in (self._process.terminate, self._process.kill):
            if self._process.poll() is None:
                end()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(KILL_TIMEOUT_S)

    def log(self) -> str:
        """Return the last lines of the log."""
        return "\n".join(self._path("log.txt").read_text(encoding="utf-8").splitlines()[-15:])

    def requests(self) -> int:
        """Return the number of answered and failed requests."""
        return int(_aggregated(_table(self._path("stats.csv")))["Request Count"])

    def rate(self) -> float:
        """Return the mean rate of the run, requests/s."""
        return float(_aggregated(_table(self._path("stats.csv")))["Requests/s"])

    def failures(self) -> Counter[Failure]:
        """Return the number of failures of each kind."""
        found: Counter[Failure] = Counter()
        for line in _table(self._path("failures.csv")):
            found[Failure(line["Name"], line["Error"])] += int(line["Occurrences"])
        return found

    def history(self, began_s: float) -> list[HistoryPoint]:
        """Return the history of the run.

        Args:
            began_s: Origin of the time axis, in seconds since the epoch.
        """
        return read_history(_table(self._path("stats_history.csv")), began_s)

    def _path(self, ending: str) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}_{ending}")


def burst_stages(total_s: float, burst_at: float) -> list[tuple[int, float]]:
    """Return the stages of a soak, with one burst in each period of at most MAX_PERIOD_S seconds.

    Args:
        total_s: Length of the soak.
        burst_at: Start of the burst as a share of its period, at most 1 - BURST_SHARE.
    """
    periods = max(MIN_PERIODS, round(total_s / MAX_PERIOD_S))
    period_s = total_s / periods
    before, burst = burst_at * period_s, BURST_SHARE * period_s
    period = [(USERS, before), (BURST_FACTOR * USERS, burst), (USERS, period_s - before - burst)]
    return periods * [(users, round(seconds, 3)) for users, seconds in period]


def unexpected_failures(failures: Counter[Failure]) -> dict[str, int]:
    """Return the failures that overload does not explain, such as wrong answers, counted by text."""
    return {str(failure): count for failure, count in failures.items() if not failure.is_expected}


def read_history(lines: Iterable[dict[str, str]], began_s: float) -> list[HistoryPoint]:
    """Return the points of locust's history that cover all requests and have latencies."""
    return [
        HistoryPoint(
            float(line["Timestamp"]) - began_s,
            int(line["User Count"]),
            float(line["50%"]),
            float(line["99%"]),
        )
        for line in lines
        if line["Name"] == AGGREGATED and "N/A" not in (line["50%"], line["99%"])
    ]


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _aggregated(lines: Iterable[dict[str, str]]) -> dict[str, str]:
    return next(line for line in lines if line["Name"] == AGGREGATED)
