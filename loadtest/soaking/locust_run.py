"""The load of a soak: a locust process for each protocol, at a steady rate with bursts, and its report."""

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

ROOT = Path(__file__).resolve().parents[2]
LOCUSTFILE = ROOT / "loadtest" / "locustfile.py"
PROTOCOLS = ("grpc", "http")
USERS = 8
"""Of each protocol, between the bursts."""
BURST_FACTOR = 6
"""So many times the users take part in a burst, at the same pace."""
BURST_SHARE = 0.1
"""Share of the time that a protocol's bursts take."""
PERIODS = 10
"""At least so many bursts of each protocol fall into a soak, so that two are over when it is warmed up."""
LONGEST_PERIOD_S = 60.0
START_S = 120.0
"""Longest time until a process sends: on a busy machine, drawing its pictures takes a while."""
END_S = 30.0
"""Longest time from the last stage to the end of the process: requests are waited for."""
KILL_S = 5.0
AGGREGATED = "Aggregated"
TOLERATED = (" - refused", " - deadline")
"""Ends of the names of requests that an overloaded server may refuse; the bursts overload it on purpose."""


class LoadError(RuntimeError):
    """The load could not be made; the text is the end of locust's own log."""


@dataclass(frozen=True)
class Addresses:
    """Where the server is: gRPC and HTTP, each host:port."""

    grpc: str
    http: str


@dataclass(frozen=True)
class HistoryPoint:
    """A line of locust's history over all requests.

    Attributes:
        time_s: Since the load began.
        users: At that time.
        p50_ms: Median latency of the last seconds, p99_ms accordingly.
        p99_ms: See `p50_ms`.
    """

    time_s: float
    users: int
    p50_ms: float
    p99_ms: float


class Locust:
    """A headless locust process of one protocol.

    Args:
        protocol: `grpc` or `http`.
        addresses: Of the server.
        directory: Gets the log and locust's CSV files, named by the protocol.
        stages: Users and seconds, one after the other.
        pace_s: Seconds between the starts of a user's requests; 0: as fast as they are answered.
        seed: Of the requests.
    """

    def __init__(
        self,
        protocol: str,
        addresses: Addresses,
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
        self._over_at = time.monotonic() + START_S + self._length_s

    def is_running(self) -> bool:
        """Whether it still sends, or should."""
        return self._process.poll() is None and time.monotonic() < self._over_at

    def has_begun(self) -> bool:
        """Whether requests of it were answered.

        Raises:
            LoadError: It ended before, or does not begin.
        """
        history = self._path("stats_history.csv")
        if history.exists() and any(int(line["Total Request Count"]) for line in _table(history)):
            self._over_at = min(self._over_at, time.monotonic() + self._length_s)
            return True
        if not self.is_running():
            self.wait()
            raise LoadError(f"locust ({self.protocol}) sent nothing:\n{self.log()}")
        return False

    def wait(self) -> None:
        """Waits until all stages are over.

        A process that has reported and does not end is killed: gRPC can hang at the interpreter's end.

        Raises:
            LoadError: It ended without a report.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, self._over_at - time.monotonic()) + END_S)
        self.stop()
        if not self._path("stats.csv").exists():
            raise LoadError(
                f"locust ({self.protocol}) ended with code {self._process.returncode} and no report:\n"
                f"{self.log()}"
            )

    def stop(self) -> None:
        """Ends it, whatever it does."""
        for end in (self._process.terminate, self._process.kill):
            if self._process.poll() is None:
                end()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(KILL_S)

    def log(self) -> str:
        """The last lines of its log."""
        return "\n".join(self._path("log.txt").read_text(encoding="utf-8").splitlines()[-15:])

    def requests(self) -> int:
        """Requests that got an answer or failed."""
        return int(_aggregated(_table(self._path("stats.csv")))["Request Count"])

    def rate(self) -> float:
        """Requests a second over the whole run."""
        return float(_aggregated(_table(self._path("stats.csv")))["Requests/s"])

    def failures(self) -> Counter[str]:
        """Numbers of failures by request name and error."""
        found: Counter[str] = Counter()
        for line in _table(self._path("failures.csv")):
            found[f"{line['Name']}: {line['Error']}"] += int(line["Occurrences"])
        return found

    def history(self, began_s: float) -> list[HistoryPoint]:
        """The whole run's history.

        Args:
            began_s: When time 0 is, in seconds of the epoch.
        """
        return read_history(_table(self._path("stats_history.csv")), began_s)

    def _path(self, ending: str) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}_{ending}")


def burst_stages(total_s: float, burst_at: float) -> list[tuple[int, float]]:
    """Users and seconds of a soak's load: a burst in each period, the periods at most LONGEST_PERIOD_S long.

    Args:
        total_s: Length of the soak.
        burst_at: Where in its period the burst begins, as a share; at most 1 - BURST_SHARE.
    """
    periods = max(PERIODS, round(total_s / LONGEST_PERIOD_S))
    period_s = total_s / periods
    before, burst = burst_at * period_s, BURST_SHARE * period_s
    period = [(USERS, before), (BURST_FACTOR * USERS, burst), (USERS, period_s - before - burst)]
    return periods * [(users, round(seconds, 3)) for users, seconds in period]


def unexpected(failures: Counter[str]) -> dict[str, int]:
    """The failures that no overload explains: wrong answers first of all."""
    return {
        text: count
        for text, count in failures.items()
        if not text.partition(": LoadFailure")[0].endswith(TOLERATED)
    }


def read_history(lines: Iterable[dict[str, str]], began_s: float) -> list[HistoryPoint]:
    """The points of locust's history that are about all requests and have latencies."""
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
