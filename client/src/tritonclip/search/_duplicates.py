"""Detection of images that an index contains more than once: same content, or nearly the same vector."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tritonclip._messages.text import shown as quoted
from tritonclip.search._store import Store
from tritonclip.search._types import Array, Entry

BLOCK_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class DuplicateGroup:
    """A group of duplicate images.

    Attributes:
        cosine: Lowest cosine of a pair that joined two images of the group; 1 if all have the same content.
        exact: True if all images have the same content.
        entries: The images, at least two, sorted by path.
    """

    cosine: float
    exact: bool
    entries: list[Entry]

    def __repr__(self) -> str:
        """Return the number of images, the cosine and the first name."""
        alike = "identical" if self.exact else f"cosine {self.cosine:.4f}"
        return f"<DuplicateGroup {len(self.entries)} images, {alike}, {quoted(self.entries[0].name)}...>"


def find_duplicates(store: Store, threshold: float | None) -> list[DuplicateGroup]:
    """Return the groups of duplicate images, largest group first.

    With a threshold, every image is compared with every other, block by block. The memory use is constant,
    and the time grows with the square of the number of images.

    Args:
        store: The store of the index.
        threshold: Images with at least this cosine are duplicates, and the relation is transitive. None finds
            only images with the same content.
    """
    entries, links = _exact_links(store)
    if threshold is not None:
        links += _near_links(store, threshold)
    return _groups(entries, links)


def _exact_links(store: Store) -> tuple[list[Entry], list[tuple[str, str, float]]]:
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


def _near_links(store: Store, threshold: float) -> list[tuple[str, str, float]]:
    links = []
    for position, (left_ids, left) in enumerate(_blocks(store)):
        for other, (right_ids, right) in enumerate(_blocks(store)):
            if other < position:
                continue
            cosines = left @ right.T
            if other == position:
                cosines[np.tril_indices(len(left))] = -1  # skip self-pairs and mirrored pairs
            for row, column in zip(*np.nonzero(cosines >= threshold), strict=True):
                links.append((left_ids[row], right_ids[column], float(cosines[row, column])))
    return links


def _blocks(store: Store) -> Iterator[tuple[list[str], Array]]:
    return (
        ([entry.id for entry in entries], vectors) for entries, vectors in store.blocks("image", BLOCK_ROWS)
    )


def _groups(entries: list[Entry], links: list[tuple[str, str, float]]) -> list[DuplicateGroup]:
    """Join directly and indirectly linked entries into groups (union-find)."""
    parent = {id: id for link in links for id in link[:2]}

    def root(id: str) -> str:
        while parent[id] != id:
            parent[id] = parent[parent[id]]
            id = parent[id]
        return id

    for left, right, _ in links:
        parent[root(left)] = root(right)
    lowest: dict[str, float] = {}
    for left, _, cosine in links:
        lowest[root(left)] = min(cosine, lowest.get(root(left), 1.0))
    members = defaultdict(list)
    for entry in entries:
        if entry.id in parent:
            members[root(entry.id)].append(entry)
    groups = [
        DuplicateGroup(
            cosine=min(1.0, lowest[key]),
            exact=len({entry.sha256 for entry in group}) == 1,
            entries=sorted(group, key=lambda entry: entry.path),
        )
        for key, group in members.items()
    ]
    return sorted(groups, key=lambda group: (-len(group.entries), group.entries[0].path))
