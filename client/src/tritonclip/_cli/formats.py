"""The forms in which the command writes its records: JSON, JSON lines, CSV, NumPy and Parquet.

Each writer takes the records one by one and holds few of them, whatever their number.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import click
import numpy as np

from tritonclip._cli.records import Journal, Record, dump_record, replace_synced
from tritonclip._text import shortest_floats
from tritonclip.errors import InvalidInputError, MissingExtraError

PARQUET_ROWS = 1024


@dataclass(frozen=True)
class Kind:
    """What a command's records hold.

    Attributes:
        command: The command's name.
        field: The key of the result, beside `input`.
        columns: The result's columns in CSV.
    """

    command: str
    field: str
    columns: tuple[str, ...]


CLASSIFY = Kind("classify", "predictions", ("label", "score"))
EMBED = Kind("embed", "embedding", ("embedding",))
SIMILARITY = Kind("similarity", "similarities", ("text", "cosine"))

Writer = Callable[[Kind, Iterable[Record], TextIO], None]


def write_jsonl(kind: Kind, records: Iterable[Record], file: TextIO) -> None:
    """One line a record, as soon as it is there."""
    for record in records:
        file.write(f"{dump_record(record)}\n")
        file.flush()


def write_csv(kind: Kind, records: Iterable[Record], file: TextIO) -> None:
    """One row an input and label or text, or an input and error; an embedding is a JSON list."""
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["input", *kind.columns, "error"])
    for record in records:
        rows.writerows([record["input"], *row] for row in _csv_rows(kind, record))
        file.flush()


def _csv_rows(kind: Kind, record: Record) -> Iterator[list[Any]]:
    blank = [""] * len(kind.columns)
    if "error" in record:
        yield [*blank, record["error"]]
    elif kind is EMBED:
        yield [json.dumps(shortest_floats(record["embedding"])), ""]
    else:
        for item in record[kind.field]:
            yield [*(item[column] for column in kind.columns), ""]
        if not record[kind.field]:  # all below the threshold; the input must not get lost
            yield [*blank, ""]


def write_json(kind: Kind, records: Iterable[Record], file: TextIO) -> None:
    """One document for a file: the same records give the same bytes."""
    _write_document(records, file, lambda: "")


def print_json(kind: Kind, records: Iterable[Record], file: TextIO) -> None:
    """One document for standard output, with the time that it all took, in ms."""
    start = time.perf_counter()
    _write_document(
        records, file, lambda: f', "elapsed_ms": {round((time.perf_counter() - start) * 1000, 3)}'
    )


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
    """Refuse an output file whose suffix names no form of this command, before any work is done.

    Raises:
        click.UsageError: If the suffix is none of the command's.
        MissingExtraError: If it is `.parquet` and pyarrow is not installed.
    """
    suffixes = [*TEXT_WRITERS, *([".npy", ".parquet"] if kind is EMBED else [])]
    if path.suffix not in suffixes:
        raise click.UsageError(
            f"--output {path}: the name must end in {', '.join(suffixes[:-1])} or {suffixes[-1]}"
        )
    if path.suffix == ".parquet":
        _pyarrow()


def write_file(kind: Kind, journal: Journal, path: Path) -> None:
    """Write a complete run's records to a file, in the form of its suffix; it appears at once or not at all.

    Raises:
        InvalidInputError: If the file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        if path.suffix == ".npy":
            _write_npy(journal, temporary, path)
        elif path.suffix == ".parquet":
            _write_parquet(journal, temporary)
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                TEXT_WRITERS[path.suffix](kind, journal.records(), file)
        replace_synced(temporary, path)
    except OSError as error:
        raise InvalidInputError(
            f"--output {path}: cannot write: {error}; mend that, then --resume"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def inputs_path(path: Path) -> Path:
    """The file beside a `.npy` that names the input of each row."""
    return path.with_name(f"{path.stem}.inputs.jsonl")


def _vectors(journal: Journal) -> Iterator[tuple[Record, Any]]:
    """The records without their embedding, and it: float32 [d], NaN for a failed input."""
    missing = np.full(journal.dim, np.nan, "<f4")
    for record in journal.records():
        vector = record.pop("embedding", missing)
        yield record, vector


def _write_npy(journal: Journal, temporary: Path, path: Path) -> None:
    """float32 [n, d], a row an input; the inputs' names go to a file beside it."""
    names = path.with_name(f"{path.name}.inputs.tmp")
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(journal), journal.dim)}
    numpy_format: Any = np.lib.format  # untyped
    with temporary.open("wb") as array, names.open("w", encoding="utf-8", newline="") as lines:
        numpy_format.write_array_header_1_0(array, header)
        for record, vector in _vectors(journal):
            array.write(vector.tobytes())
            lines.write(f"{dump_record(record)}\n")
    replace_synced(names, inputs_path(path))


def _write_parquet(journal: Journal, temporary: Path) -> None:
    """Columns `input`, `embedding`, `error`; NaN for failed inputs, as no null of fixed size can be read."""
    pa, parquet = _pyarrow()
    embedding = pa.list_(pa.float32(), journal.dim or -1)  # -1: of any size; size 0 cannot be read back
    schema = pa.schema([("input", pa.string()), ("embedding", embedding), ("error", pa.string())])
    rows = ({**record, "embedding": vector} for record, vector in _vectors(journal))
    with parquet.ParquetWriter(temporary, schema) as writer:
        while chunk := list(islice(rows, PARQUET_ROWS)):
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))


def _pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError(
            f"a .parquet file needs pyarrow ({error}): pip install 'tritonclip[parquet]'"
        ) from error
