"""Images that an index holds more than once: by content, or nearly, by the cosine of their vectors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tritonclip.search._store import Store
from tritonclip.search._types import Array, Entry

BLOCK_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class DuplicateGroup:
    """Images that are alike.

    Attributes:
        cosine: The least that linked one of them to another; 1 where all have the same content.
        exact: All have the same content.
        entries: At least two, by path.
    """

    cosine: float
    exact: bool
    entries: list[Entry]


def find_duplicates(store: Store, threshold: float | None) -> list[DuplicateGroup]:
    """The groups of images that are alike, the largest first.

    Every image is compared with every other, block by block: memory stays the same, and the time grows with
    the square of the number of images.

    Args:
        store: Of the index.
        threshold: Images with at least this cosine are alike, and so is what is alike to one of them; None:
            only those with the same content.
    """
    entries, links = _exact(store)
    if threshold is not None:
        links += _near(store, threshold)
    return _groups(entries, links)


def _exact(store: Store) -> tuple[list[Entry], list[tuple[str, str, float]]]:
    first: dict[str, str] = {}
    entries, links = [], []
    for stamps in store.stamps():
        for entry, _ in stamps:
            if entry.kind != "image":
                continue
            entries.append(entry)
            other = first.setdefault(entry.sha256, entry.id)
            if other != entry.id:
                links.append((other, entry.id, 1.0))
    return entries, links


def _near(store: Store, threshold: float) -> list[tuple[str, str, float]]:
    links = []
    for place, (left_ids, left) in enumerate(_blocks(store)):
        for other, (right_ids, right) in enumerate(_blocks(store)):
            if other < place:
                continue
            cosines = left @ right.T
            if other == place:
                cosines[np.tril_indices(len(left))] = -1  # with itself, and each pair once
            for row, column in zip(*np.nonzero(cosines >= threshold), strict=True):
                links.append((left_ids[row], right_ids[column], float(cosines[row, column])))
    return links


def _blocks(store: Store) -> Iterator[tuple[list[str], Array]]:
    return (
        ([entry.id for entry in entries], vectors) for entries, vectors in store.blocks("image", BLOCK_ROWS)
    )


def _groups(entries: list[Entry], links: list[tuple[str, str, float]]) -> list[DuplicateGroup]:
    """Join what is linked, directly or by way of others."""
    parent = {id: id for link in links for id in link[:2]}

    def root(id: str) -> str:
        while parent[id] != id:
            parent[id] = parent[parent[id]]
            id = parent[id]
        return id

    for left, right, _ in links:
        parent[root(left)] = root(right)
    least: dict[str, float] = {}
    for left, _, cosine in links:
        least[root(left)] = min(cosine, least.get(root(left), 1.0))
    members = defaultdict(list)
    for entry in entries:
        if entry.id in parent:
            members[root(entry.id)].append(entry)
    groups = [
        DuplicateGroup(
            cosine=min(1.0, least[key]),
            exact=len({entry.sha256 for entry in group}) == 1,
            entries=sorted(group, key=lambda entry: entry.path),
        )
        for key, group in members.items()
    ]
    return sorted(groups, key=lambda group: (-len(group.entries), group.entries[0].path))
