"""What an index needs of the place where its vectors lie, and which place an address names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from tritonclip.errors import InvalidInputError
from tritonclip.search._types import Array, Entry, Hit, Identity, Kind, Row, Stamp

FORMAT = 1
SCHEMES = ("chroma://", "chromas://", "http://", "https://")


class Store(Protocol):
    """Rows by id. What a call has written is there after a crash; a row is never half written.

    Attributes:
        identity: Of the vectors.
        flush_rows: So many rows are well written at once.
        work_directory: Where a run may keep what is not written yet; None: nowhere that lasts.
    """

    identity: Identity
    flush_rows: int
    work_directory: Path | None

    def put(self, rows: Sequence[Row]) -> None:
        """Write rows; one whose id is there is replaced."""

    def delete(self, ids: Sequence[str]) -> None:
        """Take rows away; ids that are not there are passed over."""

    def finish(self) -> None:
        """After a run's last change: put in order what makes searches quick."""

    def count(self, kind: Kind | None = None) -> int:
        """How many rows there are, or of one kind."""

    def stamps(self) -> Iterator[list[tuple[Entry, Stamp]]]:
        """All rows without their vectors, some at a time."""

    def blocks(self, kind: Kind, rows: int) -> Iterator[tuple[list[Entry], Array]]:
        """All rows of a kind with their vectors, float32 [n, d], so many at a time."""

    def vectors(self, ids: Iterable[str]) -> dict[str, Array]:
        """The vectors of those that are there."""

    def get(self, id: str) -> Entry | None:
        """An entry; None where it is not there."""

    def search(self, vector: Array, top_k: int, kind: Kind | None) -> list[Hit]:
        """The entries with the greatest cosine, best first."""

    def close(self) -> None:
        """Let go of what is open."""


def open_store(address: str, identity: Identity | None) -> Store:
    """Open the store at a directory or URL, or where `identity` is given make it if it is not there.

    Raises:
        InvalidInputError: If there is none, it is none of ours, or it has vectors of other weights.
        ServerUnavailableError: If a server does not answer.
        MissingExtraError: If LanceDB is not installed.
    """
    if address.startswith(SCHEMES):
        from tritonclip.search._chroma import ChromaStore

        store: Store = ChromaStore(address, identity)
    else:
        from tritonclip.search._lance import LanceStore

        store = LanceStore(Path(address), identity)
    if identity is not None and store.identity.sha256 != identity.sha256:
        store.close()
        raise other_weights(address, store.identity, identity)
    return store


def other_weights(address: str, index: Identity, server: Identity) -> InvalidInputError:
    """The error for an index that another checkpoint made."""
    return InvalidInputError(
        f"the index {address!r} holds vectors of {index.checkpoint!r} (sha256 {index.sha256[:12]}), but the "
        f"server serves {server.checkpoint!r} (sha256 {server.sha256[:12]}); vectors of different weights do "
        "not compare. Index into another place, or ask the server that made this one"
    )


def dump_identity(identity: Identity) -> str:
    """As it is kept in the store."""
    return json.dumps({"format": FORMAT, **asdict(identity)})


def parse_identity(text: str | None, address: str) -> Identity:
    """What `dump_identity` wrote.

    Raises:
        InvalidInputError: If it is no index, or one of a later format.
    """
    try:
        values = json.loads(text or "")
        found = values.pop("format")
        if found == FORMAT:
            return Identity(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInputError(f"{address!r} is no index of tritonclip; give another place") from error
    raise InvalidInputError(f"the index {address!r} has format {found}; this version reads format {FORMAT}")
