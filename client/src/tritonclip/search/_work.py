"""What a run knows while it lasts, in a file of SQLite rather than in memory: what is there, what is indexed.

Vectors that are not in the store yet are kept in it too. A killed process loses none that the server had
answered: the next run begins by writing them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tritonclip.errors import InvalidInputError
from tritonclip.search._sources import Item
from tritonclip.search._types import Array, Entry, Identity, Row, Stamp

FILE = "work.sqlite"
_TABLES = """
create table if not exists made_by (sha256 text);
create table if not exists done (id text primary key, kind text, path text, name text, sha256 text,
    size integer, mtime_ns integer, vector blob) without rowid;
create index if not exists done_by_content on done (sha256);
drop table if exists seen;
drop table if exists known;
drop table if exists bad;
create table seen (place integer primary key, id text unique, kind text, path text, name text, size integer,
    mtime_ns integer);
create table known (id text primary key, kind text, path text, sha256 text, size integer, mtime_ns integer)
    without rowid;
create table bad (id text primary key) without rowid;
"""
_PAGE = 500


class Work:
    """The file of one run; only one process has it at a time.

    Args:
        directory: Where it lies; None: it is gone with the process.
        identity: Of the vectors; those of others that an older run has left are dropped.

    Raises:
        InvalidInputError: If another run has it.
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
            busy = (
                "another run writes this index" if "locked" in str(error) else f"cannot be written: {error}"
            )
            raise InvalidInputError(f"{self._path}: {busy}; try again when it has ended") from error
        except sqlite3.DatabaseError as error:
            raise InvalidInputError(f"{self._path} is damaged ({error}); remove it and run again") from error
        made_by = self._db.execute("select sha256 from made_by").fetchone()
        if made_by != (identity.sha256,):
            self._db.execute("delete from done")
            self._db.execute("delete from made_by")
            self._db.execute("insert into made_by values (?)", [identity.sha256])

    def see(self, items: Iterable[Item]) -> int:
        """Note what is there; gives how many were new to this run."""
        before = self._db.total_changes
        rows = ((i.id, i.kind, i.path, i.name, i.stamp.size, i.stamp.mtime_ns) for i in items)
        self._many("insert or ignore into seen values (null, ?, ?, ?, ?, ?, ?)", rows)
        return self._db.total_changes - before

    def know(self, rows: Iterable[tuple[Entry, Stamp]]) -> None:
        """Note what the index holds."""
        values = ((e.id, e.kind, e.path, e.sha256, s.size, s.mtime_ns) for e, s in rows)
        self._many("insert or replace into known values (?, ?, ?, ?, ?, ?)", values)

    def pending(self) -> Iterator[Item]:
        """What is there, and not in the index as it is now."""
        query = """select place, id, kind, path, name, size, mtime_ns from seen where place > ? and not exists
            (select 1 from known where known.id = seen.id and known.size = seen.size
            and known.mtime_ns = seen.mtime_ns) order by place limit ?"""
        place = 0
        while rows := self._db.execute(query, [place, _PAGE]).fetchall():
            place = rows[-1][0]
            for _, id, kind, path, name, size, mtime_ns in rows:
                yield Item(id=id, kind=kind, path=path, name=name, stamp=Stamp(size=size, mtime_ns=mtime_ns))

    def count_pending(self) -> int:
        """How many that are."""
        query = """select count(*) from seen where not exists (select 1 from known where known.id = seen.id
            and known.size = seen.size and known.mtime_ns = seen.mtime_ns)"""
        return int(self._db.execute(query).fetchone()[0])

    def known_content(self, sha256: str, kind: str, id: str) -> str | None:
        """The id of an indexed entry with this content, the same one if possible; None: there is none."""
        query = "select id from known where sha256 = ? and kind = ? order by id = ? desc limit 1"
        found = self._db.execute(query, [sha256, kind, id]).fetchone()
        return None if found is None else str(found[0])

    def done_content(self, sha256: str, kind: str) -> Array | None:
        """The vector of this content, where it waits to be written."""
        query = "select vector from done where sha256 = ? and kind = ? limit 1"
        found = self._db.execute(query, [sha256, kind]).fetchone()
        return None if found is None else np.frombuffer(found[0], np.float32)

    def keep(self, rows: Iterable[Row]) -> None:
        """Keep rows until they are written."""
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
        self._many("insert or replace into done values (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def kept(self, rows: int) -> Iterator[list[Row]]:
        """The rows that wait, so many at a time; who asks for more has written them."""
        query = "select * from done order by id limit ?"
        while found := self._db.execute(query, [rows]).fetchall():
            yield [_row(values) for values in found]
            self._many("delete from done where id = ?", ((values[0],) for values in found))

    def count_kept(self) -> int:
        """How many rows wait."""
        return int(self._db.execute("select count(*) from done").fetchone()[0])

    def refuse(self, id: str) -> None:
        """Note that what is there cannot be embedded."""
        self._db.execute("insert or ignore into bad values (?)", [id])

    def gone(self) -> Iterator[tuple[str, str, str]]:
        """Id, kind and path of entries of the index that are not there any more, or not as an image."""
        query = """select id, kind, path from known
            where not exists (select 1 from seen where seen.id = known.id)
            or exists (select 1 from bad where bad.id = known.id)"""
        yield from self._db.execute(query)

    def close(self, *, complete: bool) -> None:
        """Let go of the file; remove it where nothing waits in it."""
        empty = complete and not self.count_kept()
        self._db.close()
        if empty and self._path is not None:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(FILE + suffix).unlink(missing_ok=True)

    def _many(self, statement: str, rows: Iterable[Any]) -> None:
        try:
            self._db.execute("begin")
            self._db.executemany(statement, rows)
            self._db.execute("commit")
        except sqlite3.OperationalError as error:
            raise InvalidInputError(f"{self._path or 'the temporary directory'}: {error}") from error


def _row(values: tuple[Any, ...]) -> Row:
    id, kind, path, name, sha256, size, mtime_ns, vector = values
    return Row(
        entry=Entry(id=id, kind=kind, path=path, name=name, sha256=sha256),
        stamp=Stamp(size=size, mtime_ns=mtime_ns),
        vector=np.frombuffer(vector, np.float32),
    )
