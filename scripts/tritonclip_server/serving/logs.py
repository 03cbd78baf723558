"""Triton's log as one JSON object a line: its own lines, its tables, tracebacks, and what models print.

A line of Triton begins `I1125 19:00:00.123456 1234 file.cc:12] `, in UTC. Its message is a JSON string, or,
where it is a table or a stub fails, plain text that goes on in the next lines. All else was printed by
somebody: each line is an entry, save a traceback, which is one. Nothing raises, and no line is lost.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Protocol

LEVELS = {"V": "DEBUG", "I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL"}
PRINTED, SERVE, SUPERVISOR = "stdout", "serve", "supervisor"
"""Sources that are no line of code: what the server's processes print, and what starts and watches them."""
QUIET_S = 0.3
"""An entry that may go on is given out where nothing came for so long."""

_HEADER = re.compile(
    r"([VIWEF])(\d{4} \d\d:\d\d:\d\d\.\d{6}) \d+ ([^\]\s]+:\d+)\] ?(.*)", re.ASCII | re.DOTALL
)
_TABLE = re.compile(r"[+|]")
_STUB = re.compile(r"\s|$|At:")  # what follows the first line of a stub's failure
_FRAME = re.compile(r"\s+\S")
_TRACEBACK = "Traceback (most recent call last):"
_MODELS = [
    re.compile(pattern)
    for pattern in (
        r"(?:un)?loading: ([\w-]+):\d",
        r"(?:successfully (?:un)?loaded|failed to (?:un)?load) '([\w-]+)'",
        r"TRITONBACKEND_ModelInstance\w+: ([\w-]+?)_\d+_\d+ ",
        r"Failed to process the request\(s\) for model '([\w-]+?)_\d+_\d+'",
        r"(?:serving |incident [0-9a-f]+, )model[= ]([\w-]+)",
        r"unable to create stream for ([\w-]+):",
        r"Stub process '([\w-]+?)_\d+_\d+'",
        r"Invalid argument: ensemble '([\w-]+)'",
    )
]
_INCIDENT = re.compile(r"incident ([0-9a-f]+)(?:, model [\w-]+)?(?:, request (\"(?:[^\"\\]|\\.)*\"))?: ")


@dataclass
class Entry:
    """What becomes one line of JSON.

    Attributes:
        time: With its zone.
        level: As Python's `logging` names it.
        source: File and line of code; or see `PRINTED`.
        message: May have several lines.
        goes_on: What further lines of it look like; None: it is whole.
        with_next: Whether the first line that looks otherwise is its end, not the next entry.
    """

    time: datetime
    level: str
    source: str
    message: str
    goes_on: re.Pattern[str] | None = None
    with_next: bool = False

    def json(self) -> str:
        """The line."""
        message = self.message.strip("\n")
        stamp = self.time.astimezone(timezone.utc).isoformat(timespec="microseconds")
        told = {"time": stamp.replace("+00:00", "Z"), "level": self.level, "source": self.source}
        return json.dumps({**told, **dict(_found_in(message)), "message": message})


class Entries:
    """Makes entries of lines.

    Args:
        now: Tells the time, with its zone: for what is printed, and the year, which Triton's lines lack.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._open: Entry | None = None

    @property
    def is_open(self) -> bool:
        """Whether an entry may go on."""
        return self._open is not None

    def push(self, line: str) -> list[Entry]:
        """Take a line; gives the entries that are whole now."""
        entry, whole = self._open, []
        header = _of_triton(line, self._now())
        if entry is not None and header is None:
            if entry.goes_on and entry.goes_on.match(line):
                entry.message += f"\n{line}"
                return []
            if entry.with_next:
                entry.message += f"\n{line}"
                return self.flush()
        whole = self.flush()
        new = header or self._printed(line)
        if new is None:
            return whole
        if new.goes_on is None:
            return [*whole, new]
        self._open = new
        return whole

    def flush(self) -> list[Entry]:
        """Give out the entry that might have gone on."""
        entry, self._open = self._open, None
        return [entry] if entry else []

    def _printed(self, line: str) -> Entry | None:
        """What a process has printed; None for an empty line."""
        if line.startswith(_TRACEBACK):
            return Entry(self._now(), "ERROR", PRINTED, line, goes_on=_FRAME, with_next=True)
        level = "ERROR" if re.match(r"error\b", line, re.IGNORECASE) else "INFO"
        return Entry(self._now(), level, PRINTED, line) if line.strip() else None


class Log(Protocol):
    """Where a server's log goes, and what is told of it."""

    def line(self, line: str) -> None:
        """Take a line of the server's own."""

    def tell(self, text: str, level: str = "INFO", source: str = SERVE) -> None:
        """Write something that `source`, which runs the server, has to say."""

    def flush(self) -> None:
        """Write what might have gone on."""


class TextLog:
    """As it comes, on standard error; what the launcher tells on standard output, unless it is a failure."""

    def line(self, line: str) -> None:
        """See `Log`."""
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    def tell(self, text: str, level: str = "INFO", source: str = SERVE) -> None:
        """See `Log`."""
        prefix, is_result = ("", level == "INFO") if source == SERVE else (f"{source}: ", False)
        print(f"{prefix}{text}", file=sys.stdout if is_result else sys.stderr, flush=True)  # noqa: T201

    def flush(self) -> None:
        """See `Log`."""


class JsonLog:
    """Writes entries as soon as they are whole. Safe for threads.

    Args:
        write: Gets each line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._entries = Entries(lambda: datetime.now(timezone.utc))
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def line(self, line: str) -> None:
        """See `Log`."""
        with self._lock:
            self._put(self._entries.push(line))
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            if self._entries.is_open:
                self._timer = threading.Timer(QUIET_S, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def tell(self, text: str, level: str = "INFO", source: str = SERVE) -> None:
        """See `Log`."""
        with self._lock:
            self._put([*self._entries.flush(), Entry(datetime.now(timezone.utc), level, source, text)])

    def flush(self) -> None:
        """See `Log`."""
        with self._lock:
            self._put(self._entries.flush())

    def _put(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._write(entry.json())


def _of_triton(line: str, now: datetime) -> Entry | None:
    """The entry that a line of Triton's own begins; None for other lines."""
    found = _HEADER.match(line)
    if found is None:
        return None
    level, stamp, source, text = found.groups()
    time = _with_year(stamp, now)
    if time is None:
        return None
    message = _unquoted(text)
    if message is not None:
        return Entry(time, LEVELS[level], source, message)
    return Entry(time, LEVELS[level], source, text.strip(), goes_on=_STUB if text.strip() else _TABLE)


def _with_year(stamp: str, now: datetime) -> datetime | None:
    """The time of a stamp in the year that brings it next to now; None where there is no such time."""
    near = []
    for year in (now.year - 1, now.year, now.year + 1):
        try:
            near.append(datetime.strptime(f"{year:04} {stamp} +0000", "%Y %m%d %H:%M:%S.%f %z"))
        except ValueError:
            continue
    return min(near, key=lambda time: abs(time - now), default=None)


def _unquoted(text: str) -> str | None:
    """What a JSON string says; None where it is none."""
    try:
        message = json.loads(text, strict=False)
    except ValueError:
        return None
    return message if isinstance(message, str) else None


def _found_in(message: str) -> Iterator[tuple[str, str]]:
    """What a message tells of a model and a request."""
    for pattern in _MODELS:
        if found := pattern.match(message):
            yield "model", found[1]
            break
    if found := _INCIDENT.match(message):
        yield "incident", found[1]
        request = _unquoted(found[2] or "")
        if request:
            yield "request_id", request
