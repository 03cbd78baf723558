"""The results of the command as records, and the journal that keeps those of a run until it is complete.

A record is `{"input": name, field: result}`, or `{"input": name, "error": reason}`. An embedding is a float32
array [d]; the journal holds it as base64 of its little-endian bytes, so nothing is lost on the way.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tritonclip.errors import InvalidInputError, TritonClipError

try:
    import fcntl
except ImportError:  # Windows: two runs at once into one file go unnoticed there
    fcntl = None  # type: ignore[assignment]

Record = dict[str, Any]
_PLACE = re.compile(r"^(?:image|text) \d+\b:?\s*")


def shown(name: str) -> str:
    """A name as UTF-8 can hold it: a byte of a file name that is no text becomes its escape."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def reason(error: TritonClipError) -> str:
    """What was wrong with one input, as one line, without its place in a request and without the server.

    Both differ from run to run; a record has to be the same whether the run was interrupted or not.
    """
    text = " ".join(error.message.split())
    return shown(_PLACE.sub("", text) or text)


def dump_record(record: Record) -> str:
    """A record as one line of JSON; an embedding as the shortest decimals that give its float32 back."""
    return json.dumps(record, ensure_ascii=False, default=decimals)


def decimals(vector: npt.NDArray[np.float32]) -> list[float]:
    """float32 [d] as numbers that print as the shortest decimals of a float32."""
    return [float(str(value)) for value in vector]


def journal_path(target: Path) -> Path:
    """Where the results for `target` are kept while it is not complete."""
    return target.with_name(f"{target.name}.partial")


class Journal:
    """The file `TARGET.partial`: a line that says what decides the results, then a record a line.

    Each record is handed to the operating system at once, so a killed process loses none that it has written.

    Attributes:
        path: The journal's file.
        recorded: How often each input is in it.
        failed: How many of its records are errors.
        dim: Values of an embedding; 0 before the first one.
    """

    def __init__(self, target: Path, header: Record, *, resume: bool) -> None:
        """Begin a journal, or with `resume` go on with the one that is there, if any.

        Raises:
            InvalidInputError: If the file cannot be written, is there without `resume`, belongs to a run
                with another header, is damaged, or is in use by another process.
        """
        self.path = journal_path(target)
        self.recorded: Counter[str] = Counter()
        self.failed = self.dim = 0
        self._file = self._open(target, resume)
        try:
            self._read(header, target)
        except BaseException:
            self._file.close()
            raise

    def _open(self, target: Path, resume: bool) -> BinaryIO:
        try:
            if self.path.exists() and not resume:
                raise InvalidInputError(
                    f"{self.path} holds the results of a run that did not end; continue it with --resume, or "
                    f"delete that file to begin {target} anew"
                )
            file = self.path.open("a+b")
        except OSError as error:
            raise InvalidInputError(f"--output {target}: cannot write {self.path}: {error}") from error
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise InvalidInputError(
                f"{self.path} is in use by another run; wait for it, or write to another file"
            ) from error
        return file

    def _read(self, header: Record, target: Path) -> None:
        """Count what is there, cut off a torn last line, and write the header if there is none."""
        end = 0
        for number, (line, record) in enumerate(self._lines()):
            if number == 0:
                self._compare(record, header, target)
            else:
                self._count(record)
            end += len(line)
        self._file.truncate(end)
        if end == 0:
            self._write(header)

    def _lines(self) -> Iterator[tuple[bytes, Record]]:
        self._file.seek(0)
        for number, line in enumerate(self._file):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
                if "embedding" in record:
                    record["embedding"] = np.frombuffer(base64.b64decode(record["embedding"]), "<f4")
            except (ValueError, TypeError) as error:
                raise InvalidInputError(
                    f"{self.path}: line {number + 1} is damaged: {error}; delete the file to begin anew"
                ) from error
            yield line, record

    def _compare(self, found: Record, header: Record, target: Path) -> None:
        wanted = json.loads(json.dumps(header))
        others = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
        if others:
            raise InvalidInputError(
                f"{self.path} was begun with another {', '.join(others)}; repeat that run's options to "
                f"continue it, or delete that file to begin {target} anew"
            )

    def append(self, record: Record) -> None:
        """Write one record.

        Raises:
            TritonClipError: If the disk does not take it. Mend that, then resume.
        """
        self._write(record)
        self._count(record)

    def _write(self, record: Record) -> None:
        try:
            self._file.write(json.dumps(record, ensure_ascii=False, default=_base64).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise TritonClipError(f"cannot write {self.path}: {error}; mend that and use --resume") from error

    def _count(self, record: Record) -> None:
        self.recorded[record["input"]] += 1
        self.failed += "error" in record
        if not self.dim and "embedding" in record:
            self.dim = len(record["embedding"])

    def __len__(self) -> int:
        """The number of records."""
        return self.recorded.total()

    def records(self) -> Iterator[Record]:
        """All records in their order, read from the file one by one."""
        lines = self._lines()
        next(lines)
        for _, record in lines:
            yield record

    def remaining(self, inputs: Iterator[str]) -> Iterator[str]:
        """The inputs that are not in the journal yet; one that is given twice is wanted twice."""
        recorded = self.recorded.copy()
        for name in inputs:
            if recorded[shown(name)] > 0:
                recorded[shown(name)] -= 1
            else:
                yield name

    def close(self) -> None:
        """Close the file; if it holds no record, it is removed: there is nothing to continue."""
        if not self.recorded:
            self.path.unlink(missing_ok=True)
        with suppress(OSError):  # what a full disk did not take; it has been told
            self._file.close()

    def discard(self) -> None:
        """Remove the journal: its records are in the target."""
        self.path.unlink(missing_ok=True)


def _base64(vector: npt.NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def replace_synced(temporary: Path, target: Path) -> None:
    """Make a complete file appear under its name at once, on the disk before it is seen."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(target)
