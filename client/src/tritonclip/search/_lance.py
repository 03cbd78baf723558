"""An index in a directory: one table of LanceDB, whose every change is a version of its own.

A version is there once its manifest is, so a process that dies leaves the one before. Readers keep the
version that they read; those of the last ten minutes stay on the disk for them.
"""

from __future__ import annotations

import datetime
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tritonclip.errors import InvalidInputError, MissingExtraError
from tritonclip.search import _ann
from tritonclip.search._store import dump_identity, parse_identity
from tritonclip.search._types import Array, Entry, Hit, Identity, Kind, Row, Stamp

os.environ.setdefault("LANCE_LOG", "error")  # read when LanceDB is loaded; it would write to standard error
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its own dependencies
        import lancedb
        import pyarrow as pa
except ModuleNotFoundError as error:
    raise MissingExtraError(
        f'an index in a directory needs {error.name}; install it with: pip install "tritonclip[search]"'
    ) from error

TABLE = "rows"
META = b"tritonclip"
FLUSH_ROWS = 8192
IDS_A_QUERY = 1000
KEEP = datetime.timedelta(minutes=10)
CONSISTENT = datetime.timedelta(seconds=1)
_ENTRY = ["id", "kind", "path", "name", "sha256"]


class LanceStore:
    """See `Store`.

    Args:
        directory: Of the index; made where it is not there and `identity` is given.
        identity: Of a new index; None: only an index that is there.
    """

    flush_rows = FLUSH_ROWS
    work_directory: Path | None

    def __init__(self, directory: Path, identity: Identity | None) -> None:
        self.work_directory = directory
        there = (directory / f"{TABLE}.lance").is_dir()
        if not there and identity is None:
            raise InvalidInputError(
                f"{str(directory)!r} is no index; make one with: tritonclip index DIR --to ..."
            )
        if not there:
            _make_directory(directory)
        with self._telling():
            database = lancedb.connect(directory, read_consistency_interval=CONSISTENT)
            if not there and identity is not None:
                database.create_table(TABLE, schema=_schema(identity), exist_ok=True)
            self._table: Any = database.open_table(TABLE)
            meta = (self._table.schema.metadata or {}).get(META, b"")
        self.identity = parse_identity(meta.decode(), str(directory))

    def put(self, rows: Sequence[Row]) -> None:
        """See `Store`."""
        merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        with self._telling():
            merge.execute(_to_arrow(rows, self.identity.dim))

    def delete(self, ids: Sequence[str]) -> None:
        """See `Store`."""
        with self._telling():
            for some in _in_parts(ids):
                self._table.delete(_one_of(some))

    def finish(self) -> None:
        """Join small files, train or extend the index over the vectors, and drop old versions."""
        with self._telling():
            rows = self._table.count_rows()
            if rows > _ann.EXACT_ROWS:
                self._train(rows)
            self._table.optimize(cleanup_older_than=KEEP)

    def count(self, kind: Kind | None = None) -> int:
        """See `Store`."""
        with self._telling():
            return int(self._table.count_rows(None if kind is None else f"kind = '{kind}'"))

    def stamps(self) -> Iterator[list[tuple[Entry, Stamp]]]:
        """See `Store`."""
        for batch in self._scan([*_ENTRY, "size", "mtime_ns"], FLUSH_ROWS):
            yield [
                (_entry(row), Stamp(size=row["size"], mtime_ns=row["mtime_ns"])) for row in batch.to_pylist()
            ]

    def blocks(self, kind: Kind, rows: int) -> Iterator[tuple[list[Entry], Array]]:
        """See `Store`."""
        for batch in self._scan([*_ENTRY, "vector"], rows, f"kind = '{kind}'"):
            yield [_entry(row) for row in batch.select(_ENTRY).to_pylist()], _to_numpy(batch["vector"])

    def vectors(self, ids: Iterable[str]) -> dict[str, Array]:
        """See `Store`."""
        found: dict[str, Array] = {}
        for some in _in_parts(list(ids)):
            for batch in self._scan(["id", "vector"], IDS_A_QUERY, _one_of(some)):
                found |= zip(batch["id"].to_pylist(), _to_numpy(batch["vector"]), strict=True)
        return found

    def get(self, id: str) -> Entry | None:
        """See `Store`."""
        if not id.isalnum():  # it goes into a filter
            return None
        with self._telling():
            rows = self._table.search().where(_one_of([id])).select(_ENTRY).limit(1).to_list()
        return _entry(rows[0]) if rows else None

    def search(self, vector: Array, top_k: int, kind: Kind | None) -> list[Hit]:
        """See `Store`."""
        asked = self._table.search(vector, vector_column_name="vector").distance_type("l2")
        asked = asked.select([*_ENTRY, "_distance"]).limit(top_k)
        asked = asked.nprobes(_ann.partitions(self.count()) * _ann.GROWTH).refine_factor(_ann.REFINE)
        if kind is not None:
            asked = asked.where(f"kind = '{kind}'", prefilter=True)
        with self._telling():
            found = asked.to_list()
        hits = [Hit(score=1 - row["_distance"] / 2, entry=_entry(row)) for row in found]
        return sorted(hits, key=lambda hit: (-hit.score, hit.entry.id))

    def close(self) -> None:
        """See `Store`."""
        del self._table

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """What LanceDB cannot read or write, as a disk that is full, as an error of this package."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            text = str(error).partition("\n")[0][:300]
            raise InvalidInputError(f"the index {str(self.work_directory)!r}: {text}") from error

    def _train(self, rows: int) -> None:
        from lancedb.index import Bitmap, BTree, IvfRq

        there = {index.name: _ann.trained_rows(index.name) for index in self._table.list_indices()}
        trained = {name: count for name, count in there.items() if count is not None}
        if trained and rows < _ann.GROWTH * max(trained.values()):
            return
        self._table.create_index("id", config=BTree(), replace=True)
        self._table.create_index("kind", config=Bitmap(), replace=True)
        config = IvfRq(distance_type="l2", num_partitions=_ann.partitions(rows), num_bits=_ann.BITS)
        self._table.create_index("vector", config=config, name=_ann.index_name(rows))
        for name in trained:
            self._table.drop_index(name)

    def _scan(self, columns: list[str], rows: int, where: str | None = None) -> Iterator[Any]:
        asked = self._table.search().select(columns)
        if where is not None:
            asked = asked.where(where)
        with self._telling():
            yield from asked.limit(None).to_batches(rows)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        others = [entry.name for entry in directory.iterdir() if not entry.name.startswith("work.sqlite")]
    except OSError as error:
        raise InvalidInputError(f"cannot make the index {str(directory)!r}: {error}") from error
    if others:
        raise InvalidInputError(
            f"{str(directory)!r} holds other files ({others[0]!r}) and no index; give a new directory"
        )


def _schema(identity: Identity) -> Any:
    numbers = [pa.field(name, pa.int64()) for name in ("size", "mtime_ns")]
    vector = pa.field("vector", pa.list_(pa.float32(), identity.dim))
    fields = [pa.field(name, pa.string()) for name in _ENTRY] + numbers + [vector]
    return pa.schema(fields, metadata={META: dump_identity(identity)})


def _to_arrow(rows: Sequence[Row], dim: int) -> Any:
    columns: dict[str, Any] = {
        name: pa.array([getattr(row.entry, name) for row in rows], pa.string()) for name in _ENTRY
    }
    columns |= {
        name: pa.array([getattr(row.stamp, name) for row in rows], pa.int64())
        for name in ("size", "mtime_ns")
    }
    values = np.concatenate([row.vector for row in rows]).astype(np.float32, copy=False)
    return pa.table(columns | {"vector": pa.FixedSizeListArray.from_arrays(pa.array(values), dim)})


def _to_numpy(column: Any) -> Array:
    values: Array = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), -1)


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(**{name: row[name] for name in _ENTRY})


def _one_of(ids: Sequence[str]) -> str:
    return f"id in ({', '.join(repr(id) for id in ids)})"


def _in_parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + IDS_A_QUERY] for start in range(0, len(ids), IDS_A_QUERY))
