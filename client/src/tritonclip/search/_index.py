"""The public class `SearchIndex`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from tritonclip._bulk import BulkOptions
from tritonclip._calls.identity import is_made_by, shown, warn_without_identity
from tritonclip._images.urls import USER_INFO
from tritonclip._messages.keywords import suggests_keywords
from tritonclip._types import ModelInfo
from tritonclip.client import Client
from tritonclip.errors import InferenceError, InvalidInputError
from tritonclip.search._duplicates import DuplicateGroup, find_duplicates
from tritonclip.search._sources import Sources
from tritonclip.search._store import Store, open_store
from tritonclip.search._sync import OnError, Summary, Sync
from tritonclip.search._sync_state import SyncState
from tritonclip.search._types import Array, Entry, Hits, Identity, Kind

if TYPE_CHECKING:
    from typing_extensions import Unpack

MAX_TOP_K = 1000
Paths = Sequence["str | os.PathLike[str]"]


@suggests_keywords(BulkOptions)
class SearchIndex:
    """An index of images and texts. Use it as a context manager, or call `close`.

    Searches are thread-safe and can run while another process writes. Only one process can write at a time.
    An index cannot be pickled; each process opens it.

    Attributes:
        identity: The checkpoint that produced the vectors.
    """

    def __init__(self, store: Store, address: str, client: Client | None) -> None:
        self._store, self._address, self._client = store, address, client
        self.identity = store.identity
        self._warned = False

    @classmethod
    def open(
        cls, address: str | os.PathLike[str], client: Client | None = None, *, create: bool = False
    ) -> SearchIndex:
        """Open an index.

        Args:
            address: A directory, or `chroma://host:port/collection`.
            client: A client of the server that embeds; required by `sync`. None opens the index without a
                check of the model.
            create: Create the index if it does not exist; requires a client.

        Raises:
            InvalidInputError: No index exists there, or it was built with a different checkpoint than the
                client's server has.
            ServerUnavailableError: The Triton or Chroma server does not answer.
            MissingExtraError: `tritonclip[search]` is not installed.
        """
        name = os.fspath(address)
        model = None if client is None else _image_model(client)
        new = _identity(client, model) if create and client is not None and model is not None else None
        index = cls(open_store(name, new), name, client)
        if model is not None:
            try:
                index.check_model(model)
            except BaseException:
                index.close()
                raise
        return index

    def check_model(self, model: ModelInfo) -> None:
        """Check that the index was built with the same weights, settings, tokenizer and code as a model has.

        An index of an older release recorded only the weights. It is accepted if these are equal, with one
        UserWarning.

        Raises:
            InvalidInputError: The index was built with another model.
        """
        own = self.identity
        if not is_made_by(model, identity=own.identity, sha256=own.sha256):
            raise InvalidInputError(
                f"the index {self._address!r} was built with {own.checkpoint!r} "
                f"({shown(own.identity, own.sha256)}), but the server serves {model.checkpoint!r} "
                f"({shown(model.identity, model.sha256)}); vectors of different weights, settings or code "
                "cannot be compared. Create a new index in another place, or connect to a server with the "
                "model of this one"
            )
        if not self._warned:
            self._warned = True
            warn_without_identity(f"the index {self._address!r}", own.identity, model)

    def sync(
        self,
        directories: Paths = (),
        *,
        text_files: Paths = (),
        on_error: OnError = lambda name, reason: None,
        **many: Unpack[BulkOptions],
    ) -> Summary:
        """Update the index to the current content of directories and text files.

        New, changed, moved and deleted files are detected. A file with the same size and modification time
        counts as unchanged; otherwise its content decides. The next call continues a run that was killed.
        Entries from other directories and files stay in the index.

        Args:
            directories: Directories of images, searched recursively.
            text_files: UTF-8 files with one text per line.
            on_error: Called with the path and the reason for each input that cannot be indexed. The run
                continues.
            **many: See `BulkOptions`. `on_progress` counts new and changed entries only,
                and its `total` is their number.

        Raises:
            InvalidInputError: A directory or file is missing, another process is writing the index, or the
                server's model has changed. Vectors that are not written yet are then dropped.
        """
        client = self._client
        if client is None:
            raise InvalidInputError("sync needs a client; pass one to SearchIndex.open")
        sources = Sources.check(directories, text_files)
        state = SyncState(self._store.work_directory, self.identity)
        complete = False
        try:
            run = Sync(
                self._store,
                client,
                state,
                sources,
                check_model=lambda: self.check_model(_image_model(client)),
                on_error=on_error,
                bulk_options=many,
            )
            summary = run.run()
            complete = True
        finally:
            state.close(complete=complete)
        return summary

    def search(self, vector: Array, top_k: int = 10, *, kind: Kind | None = "image") -> Hits:
        """Return the entries that are most similar to a query vector, best first.

        Args:
            vector: Embedding of a text or an image, float32 [d], unit L2 norm.
            top_k: Number of entries to return, 1 to 1000.
            kind: Kind of the entries, or None for both.

        Raises:
            InvalidInputError: `top_k` is out of range, or the vector has another length, values that are not
                finite, or no unit norm.
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
        return Hits(self._store.search(query, top_k, kind))

    def get(self, id: str) -> Entry | None:
        """Return the entry with this ID, or None if there is none."""
        return self._store.get(id)

    def first(self, count: int, kind: Kind | None = "image") -> list[Entry]:
        """Return up to `count` entries of one kind, or of both, in the order of the store."""
        entries = (entry for page in self._store.stamps() for entry, _ in page)
        return list(islice((entry for entry in entries if kind in (None, entry.kind)), count))

    def count(self, kind: Kind | None = None) -> int:
        """Return the number of entries, or of entries of one kind."""
        return self._store.count(kind)

    def duplicates(self, threshold: float | None = None) -> list[DuplicateGroup]:
        """Return groups of images that are duplicates, largest group first.

        Args:
            threshold: Images with at least this cosine are duplicates, above 0 and at most 1. None finds only
                images with the same content. With a threshold, the time grows with the square of the number
                of images.
        """
        if threshold is not None and not 0 < threshold <= 1:
            raise InvalidInputError(f"threshold {threshold}: expected a number above 0 and at most 1")
        return find_duplicates(self._store, threshold)

    def close(self) -> None:
        """Release open files and connections."""
        self._store.close()

    def __repr__(self) -> str:
        """Return the address and the checkpoint; the index is not read."""
        address = USER_INFO.sub("//", self._address, count=1)
        own = self.identity
        return f"<tritonclip.SearchIndex {address!r}, {own.checkpoint!r}, {own.dim} dimensions>"

    def __reduce__(self) -> NoReturn:
        """Reject pickling, because the connections of the store belong to this process."""
        raise TypeError(
            f"a SearchIndex cannot be pickled; call SearchIndex.open({self._address!r}) in each process"
        )

    def __enter__(self) -> SearchIndex:
        """Return the index itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the index."""
        self.close()


def _image_model(client: Client) -> ModelInfo:
    """Return one of the server's models, which must all be of one version."""
    models = client.models()
    if len({(model.identity, model.sha256) for model in models}) != 1:
        raise InferenceError(
            "the server's models are of different versions; prepare its model repository again, or try again "
            "when its rollout has finished"
        )
    return models[0]


def _identity(client: Client, model: ModelInfo) -> Identity:
    return Identity(
        sha256=model.sha256,
        checkpoint=model.checkpoint,
        dim=len(client.embed_texts("a")),
        identity=model.identity,
    )
