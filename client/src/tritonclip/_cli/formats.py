"""Output formats of the command: JSON, JSON lines, CSV, NumPy and Parquet.

Each writer consumes the records one at a time, so memory does not grow with their number.
"""

from __future__ import annotations

import csv
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import click
import numpy as np

from tritonclip._cli.records import Journal, Record, dump_record, replace_synced
from tritonclip._cli.terminal import visible
from tritonclip._messages.text import shortest_floats
from tritonclip.errors import InvalidInputError, MissingExtraError, install_command

PARQUET_ROWS = 1024
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")  # with apostrophes in front, so that removing one gives the text


@dataclass(frozen=True)
class Kind:
    """Layout of a command's records.

    Attributes:
        command: Name of the command.
        field: Key of the result, next to `input`.
        columns: Columns of the result in CSV.
    """

    command: str
    field: str
    columns: tuple[str, ...]


CLASSIFY = Kind("classify", "predictions", ("label", "score"))
EMBED = Kind("embed", "embedding", ("embedding",))
SIMILARITY = Kind("similarity", "similarities", ("text", "cosine"))

Writer = Callable[[Kind, Iterable[Record], TextIO], None]


def write_jsonl(kind: Kind, records: Iterable[Record], file: TextIO) -> None:
    """Write one line per record, as soon as the record arrives."""
    for record in records:
        file.write(f"{dump_record(record)}\n")
        file.flush()


def write_csv(kind: Kind, records: Iterable[Record], file: TextIO) -> None:
    """Write one row per input and label or text, or per failed input. An embedding is a JSON list.

    Texts that a spreadsheet would take for a formula get an apostrophe in front. On a terminal, control
    characters are escaped.
    """
    rows = csv.writer(_UnixLines(file))
    rows.writerow(["input", *kind.columns, "error"])
    shown = visible if file.isatty() else str
    for record in records:
        rows.writerows(
            [shown(_no_formula(cell)) if isinstance(cell, str) else cell for cell in (record["input"], *row)]
            for row in _csv_rows(kind, record)
        )
        file.flush()


class _UnixLines:
    """A file whose rows end with a line feed; csv quotes a carriage return only in rows that end with one."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row.removesuffix("\r\n") + "\n")


def _no_formula(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) else text


def _csv_rows(kind: Kind, record: Record) -> Iterator[list[Any]]:
    blank = [""] * len(kind.columns)
    if "error" in record:
        yield [*blank, record["error"]]
    elif kind is EMBED:
        yield [json.dumps(shortest_floats(record["embedding"])), ""]
    else:
        for item in record[kind.field]:
            yield [*(item[column] for column in kind.columns), ""]
        if not record[kind.field]:  # all scores are below the threshold; keep a row for the input
            yield [*blank, ""]


def write_json(kind: Kind, records: Iterable[Record], file: TextIO) -> None:
    """Write one document to a file. The same records give the same bytes."""
    _write_document(records, file, lambda: "")


def print_json(
    kind: Kind, records: Iterable[Record], file: TextIO, skipped: Callable[[], object] = tuple
) -> None:
    """Write one document to standard output, with the elapsed time in ms.

    Args:
        kind: Kind of the records.
        records: The records.
        file: Standard output.
        skipped: Returns the files that were left out, once all records were read.
    """
    start = time.perf_counter()

    def tail() -> str:
        elapsed_ms = round((time.perf_counter() - start) * 1000, 3)
        return f', "skipped": {json.dumps(skipped(), ensure_ascii=False)}, "elapsed_ms": {elapsed_ms}'

    _write_document(records, file, tail)


def _write_document(records: Iterable[Record], file: TextIO, tail: Callable[[], str]) -> None:
    before = '{"results": ['
    for record in records:
        file.write(f"{before}\n{dump_record(record)}")
        before = ","
    if before != ",":
        file.write(before)
    file.write(f"\n]{tail()}}}\n")


TEXT_WRITERS: dict[str, Writer] = {".jsonl": write_jsonl, ".csv": write_csv, ".json": write_json}


def check_suffix(kind: Kind, path: Path) -> None:
    """Reject an output file with an unsupported suffix, before any work is done.

    Raises:
        click.UsageError: If the command does not support the suffix.
        MissingExtraError: If it is `.parquet` and pyarrow is not installed.
    """
    suffixes = [*TEXT_WRITERS, *([".npy"] if kind is EMBED else []), ".parquet"]
    if path.suffix not in suffixes:
        raise click.UsageError(
            f"--output {path}: the name must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}"
        )
    if path.suffix == ".parquet":
        _pyarrow()


def write_file(kind: Kind, journal: Journal, path: Path) -> None:
    """Write a complete run's records to a file atomically, in the format of its suffix.

    Raises:
        InvalidInputError: If the file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        if path.suffix == ".npy":
            _write_npy(journal, temporary, path)
        elif path.suffix == ".parquet":
            write = _write_parquet_vectors if kind is EMBED else partial(_write_parquet_scores, kind)
            write(journal, temporary)
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                TEXT_WRITERS[path.suffix](kind, journal.records(), file)
        replace_synced(temporary, path)
    except OSError as error:
        raise InvalidInputError(
            f"--output {path}: cannot write: {error}; fix the cause, then use --resume"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def inputs_path(path: Path) -> Path:
    """Return the path of the file that names the input of each row of a `.npy` file."""
    return path.with_name(f"{path.stem}.inputs.jsonl")


def _vectors(journal: Journal) -> Iterator[tuple[Record, Any]]:
    """Yield each record without its embedding, and the embedding: float32 [d], NaN for a failed input."""
    missing = np.full(journal.dim, np.nan, "<f4")
    for record in journal.records():
        vector = record.pop("embedding", missing)
        yield record, vector


def _write_npy(journal: Journal, temporary: Path, path: Path) -> None:
    """Write float32 [n, d] with one row per input, and a second file with the names of the inputs."""
    names = path.with_name(f"{path.name}.inputs.tmp")
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(journal), journal.dim)}
    numpy_format: Any = np.lib.format  # untyped
    with temporary.open("wb") as array, names.open("w", encoding="utf-8", newline="") as lines:
        numpy_format.write_array_header_1_0(array, header)
        for record, vector in _vectors(journal):
            array.write(vector.tobytes())
            lines.write(f"{dump_record(record)}\n")
    replace_synced(names, inputs_path(path))


def _write_parquet_vectors(journal: Journal, temporary: Path) -> None:
    """Write columns `input`, `embedding` and `error`.

    A failed input gets NaN, because pyarrow cannot read a null in a fixed-size list.
    """
    pa, _ = _pyarrow()
    size = journal.dim or -1  # -1 allows any size; a list of size 0 cannot be read back
    embedding = pa.list_(pa.float32(), size)
    schema = pa.schema([("input", pa.string()), ("embedding", embedding), ("error", pa.string())])
    rows = ({**record, "embedding": vector} for record, vector in _vectors(journal))
    _write_parquet(rows, schema, temporary)


def _write_parquet_scores(kind: Kind, journal: Journal, temporary: Path) -> None:
    """Write the rows of the CSV, with nulls for empty cells: `input`, `label` and `score`, `error`."""
    pa, _ = _pyarrow()
    text, score = kind.columns
    columns = ("input", text, score, "error")
    schema = pa.schema([(name, pa.float32() if name == score else pa.string()) for name in columns])
    rows = (
        {
            name: None if cell == "" else cell
            for name, cell in zip(columns, (record["input"], *row), strict=True)
        }
        for record in journal.records()
        for row in _csv_rows(kind, record)
    )
    _write_parquet(rows, schema, temporary)


def _write_parquet(rows: Iterator[Record], schema: Any, temporary: Path) -> None:
    pa, parquet = _pyarrow()
    with parquet.ParquetWriter(temporary, schema) as writer:
        while chunk := list(islice(rows, PARQUET_ROWS)):
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))


def _pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError(
            f"a .parquet file needs pyarrow ({error}): {install_command('parquet')}"
        ) from error
