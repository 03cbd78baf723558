"""One run that brings an index to what is there: find, compare, embed what is new, delete what is gone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any, TypeVar

from tritonclip._bulk import BulkOptions
from tritonclip._records import reason
from tritonclip._types import Progress
from tritonclip.client import Client
from tritonclip.errors import InvalidInputError, TritonClipError
from tritonclip.search._sources import Item, Sources, read_image, sha256
from tritonclip.search._store import Store
from tritonclip.search._types import Array, Entry, Kind, Row
from tritonclip.search._work import Work

T = TypeVar("T")
OnError = Callable[[str, str], None]
TAKES = 500
"""Vectors that are fetched from the index at once, for files whose content it has already."""


@dataclass(kw_only=True)
class Summary:
    """What a run did; every count is of entries.

    Attributes:
        embedded: Sent to the server.
        reused: New or moved, with a content that the index had: nothing was embedded.
        unchanged: Were there and are as they were.
        deleted: Taken out, as their files are gone or no images any more.
        failed: Are no images, or cannot be read; they are not in the index.
        kept: An interrupted run had embedded them; this one wrote them.
        total: In the index, after the run.
    """

    embedded: int = 0
    reused: int = 0
    unchanged: int = 0
    deleted: int = 0
    failed: int = 0
    kept: int = 0
    total: int = 0


@dataclass(frozen=True)
class _Content:
    """An item that was read."""

    item: Item
    sha256: str

    def row(self, vector: Array) -> Row:
        item = self.item
        entry = Entry(id=item.id, kind=item.kind, path=item.path, name=item.name, sha256=self.sha256)
        return Row(entry=entry, stamp=item.stamp, vector=vector)


class Sync:
    """A run.

    Args:
        store: Is brought up to date.
        client: Embeds.
        work: The run's file.
        sources: What is looked at; other entries stay as they are.
        on_error: Is told the path of what cannot be indexed, and why.
        many: Further arguments of the client's bulk methods.
    """

    def __init__(
        self,
        store: Store,
        client: Client,
        work: Work,
        sources: Sources,
        *,
        on_error: OnError,
        many: BulkOptions,
    ) -> None:
        self._store, self._client, self._work, self._sources = store, client, work, sources
        self._on_error = on_error
        self._on_progress = many.get("on_progress") or (lambda progress: None)
        self._many: BulkOptions = {**many, "on_progress": self._note_retries}
        self._summary = Summary()
        self._takes: list[tuple[_Content, str]] = []
        self._waiting: dict[str, list[_Content]] = {}  # what is being embedded, by its content
        self._done = self._retries = 0

    def run(self) -> Summary:
        """Do it."""
        self._summary.kept = self._work.count_kept()
        self._flush()
        self._look()
        self._summary.unchanged -= self._work.count_pending()
        for kind, items in groupby(self._work.pending(), lambda item: item.kind):  # images are seen first
            self._embed(kind, items)
        self._take()
        self._flush()
        self._delete()
        if self._summary != Summary(unchanged=self._summary.unchanged, failed=self._summary.failed):
            self._store.finish()
        self._summary.total = self._store.count()
        return self._summary

    def _look(self) -> None:
        """Find what is there, and read what is in the index."""
        for found in _parts(self._sources.items(), 1000):
            self._summary.unchanged += self._work.see(each for each in found if isinstance(each, Item))
            for each in found:
                if not isinstance(each, Item):
                    self._fail(*each)
        for stamps in self._store.stamps():
            self._work.know(stamps)

    def _embed(self, kind: Kind, items: Iterable[Item]) -> None:
        """Embed the items whose content is new; all are of one kind."""
        under_way: deque[_Content] = deque()
        ask = self._client.embed_images_many if kind == "image" else self._client.embed_texts_many
        results: Iterator[Array | TritonClipError] = ask(
            self._new_contents(items, under_way), on_error="return", **self._many
        )
        for result in results:
            content = under_way.popleft()
            contents = [content, *self._waiting.pop(content.sha256)]
            if isinstance(result, TritonClipError):
                for each in contents:
                    self._refuse(each.item, result)
                continue
            self._summary.embedded += 1
            self._summary.reused += len(contents) - 1
            self._keep([each.row(result) for each in contents])

    def _new_contents(self, items: Iterable[Item], under_way: deque[_Content]) -> Iterator[Any]:
        """What the server has to see: bytes of files, or texts. The rest is dealt with on the way."""
        for item in items:
            try:
                sent, content = _read(item)
            except InvalidInputError as error:
                self._refuse(item, error)
                continue
            if content.sha256 in self._waiting:
                self._waiting[content.sha256].append(content)
            elif (vector := self._work.done_content(content.sha256, item.kind)) is not None:
                self._summary.reused += 1
                self._keep([content.row(vector)])
            elif (id := self._work.known_content(content.sha256, item.kind, item.id)) is not None:
                self._takes.append((content, id))
                if len(self._takes) >= TAKES:
                    self._take()
            else:
                self._waiting[content.sha256] = []
                under_way.append(content)
                yield sent

    def _take(self) -> None:
        """Give entries the vectors that others, or they themselves, have in the index."""
        vectors = self._store.vectors({id for _, id in self._takes})
        rows = [content.row(vectors[id]) for content, id in self._takes]
        same = sum(content.item.id == id for content, id in self._takes)
        self._summary.unchanged += same
        self._summary.reused += len(rows) - same
        self._takes = []
        self._keep(rows)

    def _keep(self, rows: list[Row]) -> None:
        self._work.keep(rows)
        self._count(len(rows))
        if self._work.count_kept() >= self._store.flush_rows:
            self._flush()

    def _flush(self) -> None:
        for rows in self._work.kept(self._store.flush_rows):
            self._store.put(rows)
            self._work.know((row.entry, row.stamp) for row in rows)

    def _delete(self) -> None:
        """Delete last, so that a renamed file could take its vector."""
        gone = (id for id, kind, path in self._work.gone() if self._sources.covers(kind, path))  # type: ignore[arg-type]
        for ids in _parts(gone, 1000):
            self._store.delete(ids)
            self._summary.deleted += len(ids)

    def _refuse(self, item: Item, error: TritonClipError) -> None:
        self._work.refuse(item.id)
        self._fail(item.path if item.kind == "image" else item.name, reason(error))
        self._count(1)

    def _fail(self, name: str, why: str) -> None:
        self._summary.failed += 1
        self._on_error(name, why)

    def _count(self, number: int) -> None:
        self._done += number
        self._on_progress(Progress(done=self._done, failed=self._summary.failed, retries=self._retries))

    def _note_retries(self, progress: Progress) -> None:
        """The rest is counted here, with what needs no server."""
        self._retries = progress.retries


def _read(item: Item) -> tuple[bytes | str, _Content]:
    if item.kind == "text":
        return item.name, _Content(item, sha256(item.name.encode()))
    content, stamp = read_image(item.path)
    return content, _Content(replace(item, stamp=stamp), sha256(content))


def _parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
