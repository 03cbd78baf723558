"""Results of the command as records, and the journal that stores the records of an unfinished run.

A record is `{"input": name, field: result}` or `{"input": name, "error": reason}`. An embedding is a float32
array [d]. The journal stores it as base64 of its little-endian bytes, so no precision is lost.
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tritonclip._calls.identity import SHOWN_DIGITS
from tritonclip._messages.callers import warn
from tritonclip._messages.text import printable, shortest_floats
from tritonclip.errors import InvalidInputError, TritonClipError

try:
    import fcntl
except ImportError:  # Windows: two simultaneous runs into one file are not detected there
    fcntl = None  # type: ignore[assignment]

Record = dict[str, Any]


def dump_record(record: Record) -> str:
    """Return a record as one line of JSON, with embeddings as shortest float32 decimals."""
    return json.dumps(record, ensure_ascii=False, default=shortest_floats)


def journal_path(target: Path) -> Path:
    """Return the path of the journal for a target file."""
    return target.with_name(f"{target.name}.partial")


class Journal:
    """The file `TARGET.partial`: a header that identifies the run, then one record per line.

    Each record is passed to the operating system immediately, so a killed process loses no record.

    Attributes:
        path: Path of the journal.
        recorded: Number of records of each input.
        failed: Number of records that are errors.
        dim: Length of an embedding; 0 before the first one.
    """

    def __init__(self, target: Path, header: Record, *, resume: bool) -> None:
        """Create a journal, or with `resume` continue an existing one.

        Raises:
            InvalidInputError: If the file cannot be written, exists without `resume`, belongs to a run with
                another header, is damaged, or is in use by another process.
        """
        self.path, self._target = journal_path(target), target
        self.recorded: Counter[str] = Counter()
        self.failed = self.dim = 0
        self._file = self._open(resume)
        try:
            self._read(header)
        except BaseException:
            self._file.close()
            raise

    def _open(self, resume: bool) -> BinaryIO:
        try:
            if self.path.exists() and not resume:
                raise InvalidInputError(
                    f"{self.path} holds the results of an unfinished run; continue it with --resume, or "
                    f"delete that file to start {self._target} over"
                )
            file = self.path.open("a+b")
        except OSError as error:
            raise InvalidInputError(f"--output {self._target}: cannot write {self.path}: {error}") from error
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise InvalidInputError(
                f"{self.path} is in use by another run; wait for it, or write to another file"
            ) from error
        return file

    def _read(self, header: Record) -> None:
        """Count existing records, truncate an incomplete last line, and write the header of a new file."""
        end = 0
        for number, (line, record) in enumerate(self._lines()):
            if number == 0:
                self._header = record
                self.check(header)
            else:
                self._count(record)
            end += len(line)
        self._file.truncate(end)
        if end == 0:
            self._header = header
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
                    f"{self.path}: line {number + 1} is damaged: {error}; delete the file to start over"
                ) from error
            yield line, record

    def check(self, header: Record) -> None:
        """Check that the records belong to a run with this header.

        A journal of an older release has no identity, and is accepted with a UserWarning.

        Raises:
            InvalidInputError: A value differs; the text names it.
        """
        found, wanted = ({"identity": None, **json.loads(json.dumps(one))} for one in (self._header, header))
        different = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
        if different == ["identity"] and found["identity"] is None:
            warn(f"{self.path} does not record the settings of the server's model")
        elif different:
            names = [_describe(key, found.get(key), wanted.get(key)) for key in different]
            raise InvalidInputError(
                f"{self.path} was started with different {', '.join(names)}; repeat that run's options "
                f"to continue it, or delete that file to start {self._target} over"
            )

    def append(self, record: Record) -> None:
        """Write one record.

        Raises:
            TritonClipError: If the record cannot be written, for example because the disk is full. Fix the
                cause, then resume.
        """
        self._write(record)
        self._count(record)

    def _write(self, record: Record) -> None:
        try:
            self._file.write(json.dumps(record, ensure_ascii=False, default=_base64).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise TritonClipError(
                f"cannot write {self.path}: {error}; fix the cause, then use --resume"
            ) from error

    def _count(self, record: Record) -> None:
        self.recorded[record["input"]] += 1
        self.failed += "error" in record
        if not self.dim and "embedding" in record:
            self.dim = len(record["embedding"])

    def __len__(self) -> int:
        """Return the number of records."""
        return self.recorded.total()

    def records(self) -> Iterator[Record]:
        """Read the records from the file, one at a time and in order."""
        lines = self._lines()
        next(lines)
        for _, record in lines:
            yield record

    def remaining(self, inputs: Iterator[str]) -> Iterator[str]:
        """Yield the inputs that have no record yet. An input that is given twice needs two records."""
        recorded = self.recorded.copy()
        for name in inputs:
            if recorded[printable(name)] > 0:
                recorded[printable(name)] -= 1
            else:
                yield name

    def close(self) -> None:
        """Close the file, and delete it if it holds no record."""
        if not self.recorded:
            self.path.unlink(missing_ok=True)
        with suppress(OSError):  # a write to a full disk, already reported by append
            self._file.close()

    def discard(self) -> None:
        """Delete the journal once its records are in the target."""
        self.path.unlink(missing_ok=True)


def _describe(key: str, found: Any, wanted: Any) -> str:
    """Name a value that differs, and for the identity of the server's model both values."""
    if key != "identity" or not found or not wanted:
        return key
    before, now = (" and ".join(one[:SHOWN_DIGITS] or "unknown" for one in each) for each in (found, wanted))
    return f"{key} of the server's model ({before}, now {now})"


def _base64(vector: npt.NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def replace_synced(temporary: Path, target: Path) -> None:
    """Rename a complete file to its target atomically, after its content has reached the disk."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(target)
