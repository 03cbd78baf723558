"""State of a sync run: what was found, what is indexed, and the vectors that are not written yet.

The state is kept in SQLite rather than in memory, so memory use does not grow with the index. It also makes
runs resumable: a killed run loses no vector that the server has returned, because the next run writes those
first.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tritonclip.errors import InvalidInputError
from tritonclip.search._sources import SourceItem
from tritonclip.search._types import Array, Entry, Identity, IndexRow, Stamp

FILE = "work.sqlite"
_TABLES = """
create table if not exists weights (sha256 text);
create table if not exists unwritten (id text primary key, kind text, path text, name text, sha256 text,
    size integer, mtime_ns integer, vector blob) without rowid;
create index if not exists unwritten_by_content on unwritten (sha256);
drop table if exists found;
drop table if exists entries;
drop table if exists rejected;
create table found (position integer primary key, id text unique, kind text, path text, name text,
    size integer, mtime_ns integer);
create table entries (id text primary key, kind text, path text, sha256 text, size integer, mtime_ns integer)
    without rowid;
create table rejected (id text primary key) without rowid;
"""
_UNINDEXED = """not exists (select 1 from entries where entries.id = found.id and entries.size = found.size
    and entries.mtime_ns = found.mtime_ns)"""
_PAGE_ROWS = 500


class SyncState:
    """The SQLite file of a sync run; only one process can open it at a time.

    Args:
        directory: Directory of the file, or None for a temporary database that is not kept.
        identity: Checkpoint of the vectors. Unwritten vectors of another checkpoint are dropped.

    Raises:
        InvalidInputError: Another run uses the file, or it is damaged or cannot be written.
    """

    def __init__(self, directory: Path | None, identity: Identity) -> None:
        self._path = None if directory is None else directory / FILE
        try:
            self._db = sqlite3.connect(
                "" if self._path is None else self._path, timeout=1, isolation_level=None
            )
            self._db.execute("pragma locking_mode = exclusive")
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = normal")
            self._db.executescript(_TABLES)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                text = f"{self._path}: another run is writing this index; try again when it has finished"
            else:
                text = f"{self._path}: cannot be written: {error}"
            raise InvalidInputError(text) from error
        except sqlite3.DatabaseError as error:
            raise InvalidInputError(f"{self._path} is damaged ({error}); delete it and run again") from error
        weights = self._db.execute("select sha256 from weights").fetchone()
        made_by = identity.identity or identity.sha256
        if weights != (made_by,):
            self.drop_unwritten()
            self._db.execute("delete from weights")
            self._db.execute("insert into weights values (?)", [made_by])

    def add_found(self, items: Iterable[SourceItem]) -> int:
        """Record items that exist in the sources; return how many of them are new to this run."""
        before = self._db.total_changes
        rows = ((i.id, i.kind, i.path, i.name, i.stamp.size, i.stamp.mtime_ns) for i in items)
        self._write_all("insert or ignore into found values (null, ?, ?, ?, ?, ?, ?)", rows)
        return self._db.total_changes - before

    def add_indexed(self, rows: Iterable[tuple[Entry, Stamp]]) -> None:
        """Record rows that are in the index."""
        values = ((e.id, e.kind, e.path, e.sha256, s.size, s.mtime_ns) for e, s in rows)
        self._write_all("insert or replace into entries values (?, ?, ?, ?, ?, ?)", values)

    def pending(self) -> Iterator[SourceItem]:
        """Yield found items that are not in the index with the same size and modification time."""
        query = f"""select position, id, kind, path, name, size, mtime_ns from found
            where position > ? and {_UNINDEXED} order by position limit ?"""
        position = 0
        while rows := self._db.execute(query, [position, _PAGE_ROWS]).fetchall():
            position = rows[-1][0]
            for _, id, kind, path, name, size, mtime_ns in rows:
                stamp = Stamp(size=size, mtime_ns=mtime_ns)
                yield SourceItem(id=id, kind=kind, path=path, name=name, stamp=stamp)

    def count_pending(self) -> int:
        """Count the items that `pending` yields."""
        return int(self._db.execute(f"select count(*) from found where {_UNINDEXED}").fetchone()[0])

    def indexed_id(self, sha256: str, kind: str, preferred_id: str) -> str | None:
        """Return the ID of an indexed entry with this content, `preferred_id` if possible, or None."""
        query = "select id from entries where sha256 = ? and kind = ? order by id = ? desc limit 1"
        row = self._db.execute(query, [sha256, kind, preferred_id]).fetchone()
        return None if row is None else str(row[0])

    def unwritten_vector(self, sha256: str, kind: str) -> Array | None:
        """Return the vector of this content if it is among the unwritten rows, or None."""
        query = "select vector from unwritten where sha256 = ? and kind = ? limit 1"
        row = self._db.execute(query, [sha256, kind]).fetchone()
        return None if row is None else np.frombuffer(row[0], np.float32)

    def add_unwritten(self, rows: Iterable[IndexRow]) -> None:
        """Keep rows until they are written to the store."""
        values = (
            (
                row.entry.id,
                row.entry.kind,
                row.entry.path,
                row.entry.name,
                row.entry.sha256,
                row.stamp.size,
                row.stamp.mtime_ns,
                row.vector.astype(np.float32, copy=False).tobytes(),
            )
            for row in rows
        )
        self._write_all("insert or replace into unwritten values (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def drain_unwritten(self, rows: int) -> Iterator[list[IndexRow]]:
        """Yield the unwritten rows in batches of `rows`.

        A batch is removed when the caller asks for the next one, so the caller must have written it by then.
        """
        query = "select * from unwritten order by id limit ?"
        while batch := self._db.execute(query, [rows]).fetchall():
            yield [_to_row(values) for values in batch]
            self._write_all("delete from unwritten where id = ?", ((values[0],) for values in batch))

    def drop_unwritten(self) -> None:
        """Delete the unwritten rows."""
        self._db.execute("delete from unwritten")

    def count_unwritten(self) -> int:
        """Count the unwritten rows."""
        return int(self._db.execute("select count(*) from unwritten").fetchone()[0])

    def reject(self, id: str) -> None:
        """Record that a found item cannot be embedded."""
        self._db.execute("insert or ignore into rejected values (?)", [id])

    def stale(self) -> Iterator[tuple[str, str, str]]:
        """Yield ID, kind and path of indexed entries that were not found or were rejected."""
        query = """select id, kind, path from entries
            where not exists (select 1 from found where found.id = entries.id)
            or exists (select 1 from rejected where rejected.id = entries.id)"""
        yield from self._db.execute(query)

    def close(self, *, complete: bool) -> None:
        """Close the file; delete it if the run is complete and no unwritten rows remain."""
        empty = complete and not self.count_unwritten()
        self._db.close()
        if empty and self._path is not None:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(FILE + suffix).unlink(missing_ok=True)

    def _write_all(self, statement: str, rows: Iterable[Any]) -> None:
        try:
            self._db.execute("begin")
            self._db.executemany(statement, rows)
            self._db.execute("commit")
        except sqlite3.OperationalError as error:
            raise InvalidInputError(f"{self._path or 'the temporary directory'}: {error}") from error


def _to_row(values: tuple[Any, ...]) -> IndexRow:
    id, kind, path, name, sha256, size, mtime_ns, vector = values
    return IndexRow(
        entry=Entry(id=id, kind=kind, path=path, name=name, sha256=sha256),
        stamp=Stamp(size=size, mtime_ns=mtime_ns),
        vector=np.frombuffer(vector, np.float32),
    )
