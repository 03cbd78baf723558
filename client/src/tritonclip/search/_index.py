"""The index as its users see it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from tritonclip._bulk import BulkOptions
from tritonclip.client import Client
from tritonclip.errors import InferenceError, InvalidInputError
from tritonclip.search._duplicates import DuplicateGroup, find_duplicates
from tritonclip.search._sources import Sources
from tritonclip.search._store import Store, open_store, other_weights
from tritonclip.search._sync import OnError, Summary, Sync
from tritonclip.search._types import Array, Entry, Hit, Identity, Kind
from tritonclip.search._work import Work

if TYPE_CHECKING:
    from typing_extensions import Unpack

MAX_TOP_K = 1000
Paths = Sequence["str | os.PathLike[str]"]


class SearchIndex:
    """An index of images and texts. Use it in a `with` block, or close it.

    Searches may come from several threads, and while another process writes. One process writes at a time.

    Attributes:
        identity: What its vectors were made by.
    """

    def __init__(self, store: Store, address: str, client: Client | None) -> None:
        self._store, self._address, self._client = store, address, client
        self.identity = store.identity

    @classmethod
    def open(
        cls, address: str | os.PathLike[str], client: Client | None = None, *, create: bool = False
    ) -> SearchIndex:
        """Open an index.

        Args:
            address: A directory, or `chroma://host:port/collection`.
            client: Its server made the vectors; needed to sync. None: nothing is embedded.
            create: Make the index where it is not there; needs a client.

        Raises:
            InvalidInputError: If there is no index, or its vectors are of other weights than the client's.
            ServerUnavailableError: If a server does not answer.
            MissingExtraError: If `tritonclip[search]` is not installed.
        """
        name = os.fspath(address)
        if create and client is not None:
            return cls(open_store(name, _identity(client)), name, client)
        index = cls(open_store(name, None), name, client)
        if client is not None:
            try:
                index.check_weights(*_weights(client))
            except BaseException:
                index.close()
                raise
        return index

    def check_weights(self, sha256: str, checkpoint: str) -> None:
        """Refuse vectors of other weights.

        Raises:
            InvalidInputError: If these did not make the index.
        """
        if sha256 != self.identity.sha256:
            server = Identity(sha256=sha256, checkpoint=checkpoint, dim=self.identity.dim)
            raise other_weights(self._address, self.identity, server)

    def sync(
        self,
        directories: Paths = (),
        *,
        text_files: Paths = (),
        on_error: OnError = lambda name, reason: None,
        **many: Unpack[BulkOptions],
    ) -> Summary:
        """Bring the index to what is in the directories and files: new, changed, moved and deleted ones.

        A file whose size and time are as they were is taken for unchanged; else its content decides. A run
        that was killed is continued by the next one. What lies elsewhere stays in the index.

        Args:
            directories: With all below them.
            text_files: UTF-8, a text a line.
            on_error: Is told the path of what cannot be indexed, and why; the run goes on.
            **many: See `BulkOptions`; `on_progress` is told of what is new or changed.

        Raises:
            InvalidInputError: If a directory or file is missing, or another process writes the index.
        """
        if self._client is None:
            raise InvalidInputError("sync needs a client; give one to SearchIndex.open")
        sources = Sources.check(directories, text_files)
        work = Work(self._store.work_directory, self.identity)
        complete = False
        try:
            run = Sync(
                self._store,
                self._client,
                work,
                sources,
                on_error=on_error,
                many=many,
            )
            summary = run.run()
            complete = True
        finally:
            work.close(complete=complete)
        return summary

    def search(self, vector: Array, top_k: int = 10, *, kind: Kind | None = "image") -> list[Hit]:
        """The entries that are nearest to a query.

        Args:
            vector: float32 [d], unit L2 norm: an embedding of a text or an image.
            top_k: How many, 1 to 1000.
            kind: Of the entries; None: both.

        Returns:
            Best first.
        """
        if not 1 <= top_k <= MAX_TOP_K:
            raise InvalidInputError(f"top_k {top_k}: expected 1 to {MAX_TOP_K}")
        query = np.asarray(vector, np.float32)
        if query.shape != (self.identity.dim,) or not np.isfinite(query).all():
            raise InvalidInputError(
                f"vector: expected {self.identity.dim} finite numbers, got shape {query.shape}"
            )
        if not math.isclose(float(np.linalg.norm(query)), 1, abs_tol=1e-3):
            raise InvalidInputError("vector: expected unit length")
        return self._store.search(query, top_k, kind)

    def get(self, id: str) -> Entry | None:
        """The entry of an id; None where there is none."""
        return self._store.get(id)

    def count(self, kind: Kind | None = None) -> int:
        """How many entries there are, or of one kind."""
        return self._store.count(kind)

    def duplicates(self, threshold: float | None = None) -> list[DuplicateGroup]:
        """Images with the same content, or with a cosine of at least `threshold`; see `find_duplicates`."""
        if threshold is not None and not 0 < threshold <= 1:
            raise InvalidInputError(f"threshold {threshold}: expected above 0, to 1")
        return find_duplicates(self._store, threshold)

    def close(self) -> None:
        """Let go of what is open."""
        self._store.close()

    def __enter__(self) -> SearchIndex:
        """The index itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def _weights(client: Client) -> tuple[str, str]:
    """The checksum of a server's weights, and their name."""
    models = client.models()
    if len({model.sha256 for model in models}) != 1:
        raise InferenceError("the server's models have different weights; prepare its repository anew")
    return models[0].sha256, models[0].checkpoint


def _identity(client: Client) -> Identity:
    sha256, checkpoint = _weights(client)
    return Identity(sha256=sha256, checkpoint=checkpoint, dim=len(client.embed_texts("a")))
