"""A store in a local directory: one LanceDB table.

Every write creates a new version of the table, which becomes visible when its manifest is written. If a
process dies during a write, the previous version stays in effect. Versions of the last ten minutes stay on
disk for the readers that still use them.
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

from tritonclip.errors import InvalidInputError, MissingExtraError, install_command
from tritonclip.search import _ann
from tritonclip.search._types import (
    Array,
    Entry,
    Hit,
    Identity,
    IndexRow,
    Kind,
    Stamp,
    dump_identity,
    parse_identity,
)

os.environ.setdefault("LANCE_LOG", "error")  # LanceDB reads it on import; the default logs to standard error
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # raised by its dependencies
        import lancedb
        import pyarrow as pa
except ModuleNotFoundError as error:
    raise MissingExtraError(
        f"an index in a directory needs {error.name}; install it with: {install_command('search')}"
    ) from error

TABLE = "rows"
METADATA_KEY = b"tritonclip"
FLUSH_ROWS = 8192
IDS_PER_QUERY = 1000
KEEP_VERSIONS = datetime.timedelta(minutes=10)
REFRESH_INTERVAL = datetime.timedelta(seconds=1)
_ENTRY = ["id", "kind", "path", "name", "sha256"]


class LanceStore:
    """A `Store` in a directory.

    Args:
        directory: Directory of the index; created if it does not exist and `identity` is given.
        identity: Checkpoint of a new index, or None to open only an existing one.
    """

    flush_rows = FLUSH_ROWS
    work_directory: Path | None

    def __init__(self, directory: Path, identity: Identity | None) -> None:
        self.work_directory = directory
        exists = (directory / f"{TABLE}.lance").is_dir()
        if not exists and identity is None:
            raise InvalidInputError(
                f"{str(directory)!r} is not an index; create one with: tritonclip index DIR --to ..."
            )
        if not exists:
            _make_directory(directory)
        with self._translate_errors():
            database = lancedb.connect(directory, read_consistency_interval=REFRESH_INTERVAL)
            if not exists and identity is not None:
                database.create_table(TABLE, schema=_schema(identity), exist_ok=True)
            self._table: Any = database.open_table(TABLE)
            meta = (self._table.schema.metadata or {}).get(METADATA_KEY, b"")
        self.identity = parse_identity(meta.decode(), str(directory))

    def put(self, rows: Sequence[IndexRow]) -> None:
        """Implement `Store.put`."""
        merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        with self._translate_errors():
            merge.execute(_to_arrow(rows, self.identity.dim))

    def delete(self, ids: Sequence[str]) -> None:
        """Implement `Store.delete`."""
        with self._translate_errors():
            for batch in _batches(ids):
                self._table.delete(_id_filter(batch))

    def optimize(self) -> None:
        """Compact small files, train or extend the vector index, and delete old versions."""
        with self._translate_errors():
            rows = self._table.count_rows()
            if rows > _ann.EXACT_ROWS:
                self._train(rows)
            self._table.optimize(cleanup_older_than=KEEP_VERSIONS)

    def count(self, kind: Kind | None = None) -> int:
        """Implement `Store.count`."""
        with self._translate_errors():
            return int(self._table.count_rows(None if kind is None else f"kind = '{kind}'"))

    def stamps(self) -> Iterator[list[tuple[Entry, Stamp]]]:
        """Implement `Store.stamps`."""
        for batch in self._scan([*_ENTRY, "size", "mtime_ns"], FLUSH_ROWS):
            yield [
                (_entry(row), Stamp(size=row["size"], mtime_ns=row["mtime_ns"])) for row in batch.to_pylist()
            ]

    def blocks(self, kind: Kind, rows: int) -> Iterator[tuple[list[Entry], Array]]:
        """Implement `Store.blocks`."""
        for batch in self._scan([*_ENTRY, "vector"], rows, f"kind = '{kind}'"):
            yield [_entry(row) for row in batch.select(_ENTRY).to_pylist()], _to_numpy(batch["vector"])

    def vectors(self, ids: Iterable[str]) -> dict[str, Array]:
        """Implement `Store.vectors`."""
        found: dict[str, Array] = {}
        for wanted in _batches(list(ids)):
            for batch in self._scan(["id", "vector"], IDS_PER_QUERY, _id_filter(wanted)):
                found |= zip(batch["id"].to_pylist(), _to_numpy(batch["vector"]), strict=True)
        return found

    def get(self, id: str) -> Entry | None:
        """Implement `Store.get`."""
        if not id.isalnum():  # the ID becomes part of an SQL filter
            return None
        with self._translate_errors():
            rows = self._table.search().where(_id_filter([id])).select(_ENTRY).limit(1).to_list()
        return _entry(rows[0]) if rows else None

    def search(self, vector: Array, top_k: int, kind: Kind | None) -> list[Hit]:
        """Implement `Store.search`."""
        query = self._table.search(vector, vector_column_name="vector").distance_type("l2")
        query = query.select([*_ENTRY, "_distance"]).limit(top_k)
        query = query.nprobes(_ann.partitions(self.count()) * _ann.GROWTH).refine_factor(_ann.REFINE)
        if kind is not None:
            query = query.where(f"kind = '{kind}'", prefilter=True)
        with self._translate_errors():
            found = query.to_list()
        hits = [Hit(score=1 - row["_distance"] / 2, entry=_entry(row)) for row in found]
        return sorted(hits, key=lambda hit: (-hit.score, hit.entry.id))

    def close(self) -> None:
        """Implement `Store.close`."""
        del self._table

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Translate errors of LanceDB, such as a full disk, to InvalidInputError."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            text = str(error).partition("\n")[0][:300]
            raise InvalidInputError(f"the index {str(self.work_directory)!r}: {text}") from error

    def _train(self, rows: int) -> None:
        from lancedb.index import Bitmap, BTree, IvfRq

        names = {index.name: _ann.trained_rows(index.name) for index in self._table.list_indices()}
        trained = {name: count for name, count in names.items() if count is not None}
        if trained and rows < _ann.GROWTH * max(trained.values()):
            return
        self._table.create_index("id", config=BTree(), replace=True)
        self._table.create_index("kind", config=Bitmap(), replace=True)
        config = IvfRq(distance_type="l2", num_partitions=_ann.partitions(rows), num_bits=_ann.BITS)
        self._table.create_index("vector", config=config, name=_ann.index_name(rows))
        for name in trained:
            self._table.drop_index(name)

    def _scan(self, columns: list[str], rows: int, where: str | None = None) -> Iterator[Any]:
        query = self._table.search().select(columns)
        if where is not None:
            query = query.where(where)
        with self._translate_errors():
            yield from query.limit(None).to_batches(rows)


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        others = [entry.name for entry in directory.iterdir() if not entry.name.startswith("work.sqlite")]
    except OSError as error:
        raise InvalidInputError(f"cannot create the index {str(directory)!r}: {error}") from error
    if others:
        raise InvalidInputError(
            f"{str(directory)!r} contains other files ({others[0]!r}) and no index; choose a new directory"
        )


def _schema(identity: Identity) -> Any:
    numbers = [pa.field(name, pa.int64()) for name in ("size", "mtime_ns")]
    vector = pa.field("vector", pa.list_(pa.float32(), identity.dim))
    fields = [pa.field(name, pa.string()) for name in _ENTRY] + numbers + [vector]
    return pa.schema(fields, metadata={METADATA_KEY: dump_identity(identity)})


def _to_arrow(rows: Sequence[IndexRow], dim: int) -> Any:
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


def _id_filter(ids: Sequence[str]) -> str:
    return f"id in ({', '.join(repr(id) for id in ids)})"


def _batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + IDS_PER_QUERY] for start in range(0, len(ids), IDS_PER_QUERY))
