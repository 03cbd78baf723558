"""A sync run: find the sources, compare them with the index, embed new content, delete stale entries."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

from tritonclip._bulk import BulkOptions
from tritonclip._images.skipped import SkippedCounts, SkippedFile, SkippedKind
from tritonclip._messages.text import error_reason
from tritonclip._types import Progress
from tritonclip.client import Client
from tritonclip.errors import InvalidInputError, TritonClipError
from tritonclip.search._sources import SourceItem, Sources, read_image, sha256
from tritonclip.search._store import Store
from tritonclip.search._sync_state import SyncState
from tritonclip.search._types import Array, Entry, IndexRow, Kind

T = TypeVar("T")
OnError = Callable[[str, str], None]
REUSE_BATCH_ROWS = 500
"""Number of vectors fetched from the index at once, for files whose content is already indexed."""


@dataclass(kw_only=True)
class Summary:
    """Result of a sync run; every number counts entries.

    Attributes:
        embedded: Embedded by the server in this run.
        reused: New or moved, but with content that was already indexed, so nothing was embedded.
        unchanged: Indexed before, and unchanged since.
        deleted: Removed because the file is gone or is no longer an image.
        failed: Not images, or unreadable. They are not in the index.
        kept: Embedded by an interrupted run, and written by this one.
        total: In the index after the run.
        skipped: Files in the directories that are not taken for images, with the reasons and the cures.
            Entries below a directory that cannot be listed stay in the index.
    """

    embedded: int = 0
    reused: int = 0
    unchanged: int = 0
    deleted: int = 0
    failed: int = 0
    kept: int = 0
    total: int = 0
    skipped: tuple[SkippedKind, ...] = ()


@dataclass(frozen=True)
class _HashedItem:
    """A source item whose content has been read."""

    item: SourceItem
    sha256: str

    def row(self, vector: Array) -> IndexRow:
        """Return the index row of this item."""
        item = self.item
        entry = Entry(id=item.id, kind=item.kind, path=item.path, name=item.name, sha256=self.sha256)
        return IndexRow(entry=entry, stamp=item.stamp, vector=vector)


class Sync:
    """One sync run.

    Args:
        store: The store to update.
        client: The client that embeds new content.
        state: State of the run.
        sources: The sources to cover. Entries of other sources are not changed.
        check_model: Asks the server for its model, and raises InvalidInputError if the index has another.
        on_error: Called with the path and the reason for each input that cannot be indexed.
        bulk_options: Further arguments of the client's bulk methods.
    """

    def __init__(
        self,
        store: Store,
        client: Client,
        state: SyncState,
        sources: Sources,
        *,
        check_model: Callable[[], None],
        on_error: OnError,
        bulk_options: BulkOptions,
    ) -> None:
        self._store, self._client, self._state, self._sources = store, client, state, sources
        self._check_model, self._on_error = check_model, on_error
        self._on_progress = bulk_options.get("on_progress") or (lambda progress: None)
        self._bulk_options: BulkOptions = {**bulk_options, "on_progress": self._record_retries}
        self._summary = Summary()
        self._skipped = SkippedCounts()
        self._reusable: list[tuple[_HashedItem, str]] = []  # with the id of the entry that has the vector
        self._in_flight: dict[str, list[_HashedItem]] = {}  # by content: items that wait for the same vector
        self._done = self._retries = self._pending = 0

    def run(self) -> Summary:
        """Run the sync and return its summary."""
        self._summary.kept = self._state.count_unwritten()
        self._flush()
        self._compare()
        self._pending = self._state.count_pending()
        self._summary.unchanged -= self._pending
        for kind, items in groupby(self._state.pending(), lambda item: item.kind):  # images come first
            self._embed(kind, items)
        self._reuse_vectors()
        self._flush(last=True)
        self._delete_stale()
        if self._summary != Summary(unchanged=self._summary.unchanged, failed=self._summary.failed):
            self._store.optimize()
        self._summary.total = self._store.count()
        self._summary.skipped = self._skipped.kinds()
        return self._summary

    def _compare(self) -> None:
        """Record what exists in the sources and what is in the index."""
        for found in _chunks(self._sources.items(self._skip), 1000):
            self._summary.unchanged += self._state.add_found(
                each for each in found if isinstance(each, SourceItem)
            )
            for each in found:
                if not isinstance(each, SourceItem):
                    self._report_failure(*each)
        for stamps in self._store.stamps():
            self._state.add_indexed(stamps)

    def _skip(self, skipped: SkippedFile) -> None:
        """Count a file that is not taken for an image, unless it is one of the index itself."""
        own = self._store.work_directory
        if own is None or not skipped.path.is_relative_to(own.absolute()):
            self._skipped.add(skipped)

    def _embed(self, kind: Kind, items: Iterable[SourceItem]) -> None:
        """Embed the items with new content; all of them are of one kind."""
        sent: deque[_HashedItem] = deque()
        embed_many = self._client.embed_images_many if kind == "image" else self._client.embed_texts_many
        results: Iterator[Array | TritonClipError] = embed_many(
            self._new_contents(items, sent), on_error="return", **self._bulk_options
        )
        for result in results:
            first = sent.popleft()
            same_content = [first, *self._in_flight.pop(first.sha256)]
            if isinstance(result, TritonClipError):
                for each in same_content:
                    self._reject(each.item, result)
                continue
            self._summary.embedded += 1
            self._summary.reused += len(same_content) - 1
            self._keep([each.row(result) for each in same_content])

    def _new_contents(self, items: Iterable[SourceItem], sent: deque[_HashedItem]) -> Iterator[Any]:
        """Yield the contents to embed, as file bytes or texts; handle all other items on the way."""
        for item in items:
            try:
                content, hashed = _read(item)
            except InvalidInputError as error:
                self._reject(item, error)
                continue
            if hashed.sha256 in self._in_flight:
                self._in_flight[hashed.sha256].append(hashed)
            elif (vector := self._state.unwritten_vector(hashed.sha256, item.kind)) is not None:
                self._summary.reused += 1
                self._keep([hashed.row(vector)])
            elif (id := self._state.indexed_id(hashed.sha256, item.kind, item.id)) is not None:
                self._reusable.append((hashed, id))
                if len(self._reusable) >= REUSE_BATCH_ROWS:
                    self._reuse_vectors()
            else:
                self._in_flight[hashed.sha256] = []
                sent.append(hashed)
                yield content

    def _reuse_vectors(self) -> None:
        """Copy vectors from indexed entries with the same content."""
        vectors = self._store.vectors({id for _, id in self._reusable})
        rows = [hashed.row(vectors[id]) for hashed, id in self._reusable]
        unchanged = sum(hashed.item.id == id for hashed, id in self._reusable)
        self._summary.unchanged += unchanged
        self._summary.reused += len(rows) - unchanged
        self._reusable = []
        self._keep(rows)

    def _keep(self, rows: list[IndexRow]) -> None:
        self._state.add_unwritten(rows)
        self._count_done(len(rows))
        if self._state.count_unwritten() >= self._store.flush_rows:
            self._flush()

    def _flush(self, *, last: bool = False) -> None:
        """Write the rows that are not written yet, unless the server's model has changed meanwhile.

        If the server does not name its model just now, they stay for a later flush.
        """
        if self._state.count_unwritten():
            try:
                self._check_model()
            except InvalidInputError:
                self._state.drop_unwritten()
                raise
            except TritonClipError:
                if last:
                    raise
                return
        for rows in self._state.drain_unwritten(self._store.flush_rows):
            self._store.put(rows)
            self._state.add_indexed((row.entry, row.stamp) for row in rows)

    def _delete_stale(self) -> None:
        """Delete stale entries. This is the last step, so that a renamed file can reuse its old vector."""
        stale = (id for id, kind, path in self._state.stale() if self._is_gone(kind, path))  # type: ignore[arg-type]
        for ids in _chunks(stale, 1000):
            self._store.delete(ids)
            self._summary.deleted += len(ids)

    def _is_gone(self, kind: Kind, path: str) -> bool:
        """Return True if an entry that was not found is covered by the sources, and not just out of sight."""
        unlisted = kind == "image" and any(
            Path(path).is_relative_to(directory) for directory in self._skipped.directories
        )
        return self._sources.covers(kind, path) and not unlisted

    def _reject(self, item: SourceItem, error: TritonClipError) -> None:
        self._state.reject(item.id)
        self._report_failure(item.path if item.kind == "image" else item.name, error_reason(error))
        self._count_done(1)

    def _report_failure(self, name: str, why: str) -> None:
        self._summary.failed += 1
        self._on_error(name, why)

    def _count_done(self, number: int) -> None:
        self._done += number
        failed, retries = self._summary.failed, self._retries
        self._on_progress(Progress(done=self._done, failed=failed, retries=retries, total=self._pending))

    def _record_retries(self, progress: Progress) -> None:
        """Record only the retries; `_count_done` also counts the items that need no request."""
        self._retries = progress.retries


def _read(item: SourceItem) -> tuple[bytes | str, _HashedItem]:
    if item.kind == "text":
        return item.name, _HashedItem(item, sha256(item.name.encode()))
    content, stamp = read_image(item.path)
    return content, _HashedItem(replace(item, stamp=stamp), sha256(content))


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
