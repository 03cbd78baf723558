"""Format a server's log, as text or as one JSON object per line.

A line of Triton begins with `I1125 19:00:00.123456 1234 file.cc:12] `, in UTC. Its message is a JSON string.
Tables and failures of a stub are plain text instead, and continue in the next lines. Every other line was
printed by a process and is an entry by itself, except a traceback, which is one entry. The parser does not
raise and drops no line.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

import click

LEVELS = {"V": "DEBUG", "I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL"}
PRINTED, SERVE, SUPERVISOR = "stdout", "serve", "supervisor"
"""Sources other than code: the output of the server's processes, the launcher and the supervisor."""
QUIET_S = 0.3
"""Time without a further line after which an incomplete entry is written, in seconds."""

OPEN_FILES_EVERY_S = 60.0
"""Time between two lines about the limit on open files, in seconds."""

_NO_FILE_LEFT = re.compile(r"Error from accept\(\) call: Too many open files|File descriptor limit reached")
_HEADER = re.compile(
    r"([VIWEF])(\d{4} \d\d:\d\d:\d\d\.\d{6}) \d+ ([^\]\s]+:\d+)\] ?(.*)", re.ASCII | re.DOTALL
)
_TABLE = re.compile(r"[+|]")
_MODEL_CODE = re.compile(r"(?!metrics\.py)[\w.]+\.py:\d+")  # which repeats the facts of `serve`
_STUB = re.compile(r"\s|$|At:")  # the lines after the first one of a stub's failure
_FRAME = re.compile(r"\s+\S")
_TRACEBACK = "Traceback (most recent call last):"
_INCIDENT = re.compile(r"incident ([0-9a-f]+)(?:, model [\w-]+)?(?:, request (\"(?:[^\"\\]|\\.)*\"))?: ")


@dataclass
class LogEntry:
    """One entry of the log.

    Attributes:
        time: Time with its zone.
        level: Name of the level, as in Python's `logging`.
        source: File and line of the code, or one of `PRINTED`, `SERVE`, `SUPERVISOR`.
        message: Text of one or more lines.
        continuation: Pattern of the lines that continue the entry; None if it is complete.
        with_next: True if the first line that does not match the pattern is still part of the entry.
    """

    time: datetime
    level: str
    source: str
    message: str
    continuation: re.Pattern[str] | None = None
    with_next: bool = False

    def json(self) -> str:
        """Return the entry as a line of JSON.

        The keys are `time`, `level`, `source` and `message`. An incident of a model also has `incident`, and
        `request_id` if the caller sent one.
        """
        message = self.message.strip("\n")
        stamp = self.time.astimezone(timezone.utc).isoformat(timespec="microseconds")
        fields = {"time": stamp.replace("+00:00", "Z"), "level": self.level, "source": self.source}
        return json.dumps({**fields, **_incident_fields(message), "message": message})

    def text(self) -> str:
        """Return the entry for people: the local time, the level if it is not INFO, the source, the message.

        Messages of the launcher have none of these, and what a process printed has only the time.
        """
        message = self.message.strip("\n")
        if self.source == SERVE:
            return message
        if self.source == PRINTED:
            return f"{self.time.astimezone():%H:%M:%S} {message}"
        level = "" if self.level == "INFO" else f"{self.level.lower()}: "
        return f"{self.time.astimezone():%H:%M:%S} {level}{self.source}: {message}"


class OpenFilesFilter:
    """Replaces the lines that Triton repeats while it is at its limit on open files by one clear line.

    Triton's HTTP server tries to accept waiting connections without pause, and logs each attempt.

    Args:
        now_s: Returns the seconds of a monotonic clock.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._next_s = float("-inf")

    def matches(self, line: str) -> bool:
        """Return True for a line that says that no file is left for a connection."""
        return _NO_FILE_LEFT.search(line) is not None

    def replacement(self, limit: int) -> str | None:
        """Return the line to log for one that matches, or None within a minute after the last one.

        Args:
            limit: Limit on open files of the server.
        """
        now_s = self._now_s()
        if now_s < self._next_s:
            return None
        self._next_s = now_s + OPEN_FILES_EVERY_S
        return (
            f"error: tritonserver has {limit} files and connections open, which is its limit, and accepts no "
            "new connections; close idle ones, limit them with a proxy, or raise the hard limit (ulimit -Hn)"
        )


class LogParser:
    """Joins lines of a server's log to entries.

    Args:
        now: Returns the time with its zone. It dates printed lines, and gives the year, which Triton omits.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._incomplete: LogEntry | None = None

    @property
    def has_incomplete(self) -> bool:
        """True if further lines may continue the last entry."""
        return self._incomplete is not None

    def feed(self, line: str) -> list[LogEntry]:
        """Add a line, and return the entries that are now complete."""
        entry = self._incomplete
        header = _triton_entry(line, self._now())
        if entry is not None and header is None:
            if entry.continuation and entry.continuation.match(line):
                entry.message += f"\n{line}"
                return []
            if entry.with_next:
                entry.message += f"\n{line}"
                return self.flush()
        complete = self.flush()
        new = header or self._printed(line)
        if new is None:
            return complete
        if new.continuation is None:
            return [*complete, new]
        self._incomplete = new
        return complete

    def flush(self) -> list[LogEntry]:
        """Return the last entry if it was still incomplete."""
        entry, self._incomplete = self._incomplete, None
        return [entry] if entry else []

    def _printed(self, line: str) -> LogEntry | None:
        """Return the entry of a line that a process printed; None for an empty line."""
        if line.startswith(_TRACEBACK):
            return LogEntry(self._now(), "ERROR", PRINTED, line, continuation=_FRAME, with_next=True)
        level = "ERROR" if re.match(r"error\b", line, re.IGNORECASE) else "INFO"
        return LogEntry(self._now(), level, PRINTED, line) if line.strip() else None


class Log:
    """The log of a server, its launcher and its supervisor. Safe for threads.

    Lines are joined to entries, and each is written as soon as it is complete.

    Args:
        write: Called with each entry.
    """

    def __init__(self, write: Callable[[LogEntry], None]) -> None:
        self._write = write
        self._parser = LogParser(lambda: datetime.now(timezone.utc))
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def server_line(self, line: str) -> None:
        """Write a line of the server."""
        with self._lock:
            self._write_all(self._parser.feed(line))
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            if self._parser.has_incomplete:
                self._timer = threading.Timer(QUIET_S, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def message(self, text: str, level: str = "INFO", source: str = SERVE) -> None:
        """Write a message of the launcher or the supervisor."""
        with self._lock:
            entry = LogEntry(datetime.now(timezone.utc), level, source, text)
            self._write_all([*self._parser.flush(), entry])

    def flush(self) -> None:
        """Write an entry that is still incomplete."""
        with self._lock:
            self._write_all(self._parser.flush())

    def _write_all(self, entries: list[LogEntry]) -> None:
        for entry in entries:
            self._write(entry)


def json_log() -> Log:
    """Return a log of one JSON object per line on standard error."""
    return Log(lambda entry: click.echo(entry.json(), err=True))


def text_log(*, verbose: bool) -> Log:
    """Return a log for people: messages on standard output, warnings and errors on standard error.

    Args:
        verbose: Also write what Triton and the models report of their normal work.
    """

    def write(entry: LogEntry) -> None:
        if entry.source == SERVE and entry.level == "INFO":
            click.echo(entry.message)
        elif verbose or entry.level not in ("DEBUG", "INFO") or _MODEL_CODE.fullmatch(entry.source):
            click.echo(entry.text(), err=True)

    return Log(write)


def _triton_entry(line: str, now: datetime) -> LogEntry | None:
    """Return the entry that a line of Triton begins; None for other lines."""
    found = _HEADER.match(line)
    if found is None:
        return None
    level, stamp, source, text = found.groups()
    time = _with_year(stamp, now)
    if time is None:
        return None
    message = _unquoted(text)
    if message is not None:
        return LogEntry(time, LEVELS[level], source, message)
    continuation = _STUB if text.strip() else _TABLE
    return LogEntry(time, LEVELS[level], source, text.strip(), continuation=continuation)


def _with_year(stamp: str, now: datetime) -> datetime | None:
    """Return the time of a stamp in the year that brings it closest to now; None if there is no such day."""
    times = []
    for year in (now.year - 1, now.year, now.year + 1):
        try:
            times.append(datetime.strptime(f"{year:04} {stamp} +0000", "%Y %m%d %H:%M:%S.%f %z"))
        except ValueError:
            continue
    return min(times, key=lambda time: abs(time - now), default=None)


def _unquoted(text: str) -> str | None:
    """Return the content of a JSON string; None for other text."""
    try:
        message = json.loads(text, strict=False)
    except ValueError:
        return None
    return message if isinstance(message, str) else None


def _incident_fields(message: str) -> dict[str, str]:
    """Return the ids in the message of a model's incident."""
    found = _INCIDENT.match(message)
    if found is None:
        return {}
    request_id = _unquoted(found[2] or "")
    return {"incident": found[1], **({"request_id": request_id} if request_id else {})}
