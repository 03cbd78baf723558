"""The interface that an index needs from a vector store, and the choice of a store by its address."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from tritonclip.search._types import Array, Entry, Hit, Identity, IndexRow, Kind, Stamp

SCHEMES = ("chroma://", "chromas://", "http://", "https://")


class Store(Protocol):
    """Durable storage of index rows by ID.

    A completed write survives a crash, and a row is never written partially.

    Attributes:
        identity: Model of the stored vectors.
        flush_rows: Number of rows that the store writes efficiently in one call.
        work_directory: Directory for the state of a sync run, or None if the store has no local directory.
    """

    identity: Identity
    flush_rows: int
    work_directory: Path | None

    def put(self, rows: Sequence[IndexRow]) -> None:
        """Insert rows, and replace those whose ID exists."""

    def delete(self, ids: Sequence[str]) -> None:
        """Delete rows by ID; ignore unknown IDs."""

    def optimize(self) -> None:
        """Prepare the store for fast searches after the last write of a run."""

    def count(self, kind: Kind | None = None) -> int:
        """Count all rows, or the rows of one kind."""

    def stamps(self) -> Iterator[list[tuple[Entry, Stamp]]]:
        """Yield all rows in batches, without their vectors."""

    def blocks(self, kind: Kind, rows: int) -> Iterator[tuple[list[Entry], Array]]:
        """Yield all rows of a kind in batches of at most `rows`, with vectors as float32 [n, d]."""

    def vectors(self, ids: Iterable[str]) -> dict[str, Array]:
        """Return the vectors of the IDs that exist."""

    def get(self, id: str) -> Entry | None:
        """Return the entry with this ID, or None if there is none."""

    def search(self, vector: Array, top_k: int, kind: Kind | None) -> list[Hit]:
        """Return the `top_k` entries with the highest cosine, best first."""

    def close(self) -> None:
        """Release open files and connections."""


def open_store(address: str, identity: Identity | None) -> Store:
    """Open the store at a directory or URL. If `identity` is given, create a missing store for it.

    Raises:
        InvalidInputError: No index exists there, or it was not written by tritonclip.
        ServerUnavailableError: The Chroma server does not answer.
        MissingExtraError: LanceDB is not installed.
    """
    if address.startswith(SCHEMES):
        from tritonclip.search._chroma import ChromaStore

        store: Store = ChromaStore(address, identity)
    else:
        from tritonclip.search._lance import LanceStore

        store = LanceStore(Path(address), identity)
    return store
