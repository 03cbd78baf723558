"""The label-embedding cache: least recently used, bounded in bytes, keyed by a label's UTF-8 bytes.

The embeddings are rows of one matrix, so that looking up a thousand cached labels is one gather. A cache
belongs to one model instance. Its threads call `look_up`, `add` and `in`; the other methods are not safe.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

ENTRY_OVERHEAD_BYTES = 300
"""Memory of an entry besides label and embedding: object header, hash table slots and row number."""
ABSENT = -1
"""Row number of a label that is not cached."""


class LabelCache:
    """A least-recently-used cache of label embeddings.

    Args:
        capacity_bytes: Limit on the sum of the entries' sizes; 0 disables the cache.
        dim: Dimensions of an embedding.
    """

    def __init__(self, capacity_bytes: int, dim: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._rows: OrderedDict[bytes, int] = OrderedDict()
        self._free: list[int] = []
        self._embeds = np.empty((0, dim), np.float32)
        self._token_counts = np.empty(0, np.int32)
        self.size_bytes = 0
        self._lock = threading.Lock()
        self._grow()

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._rows)

    def __contains__(self, label: bytes) -> bool:
        """Return whether a label is cached, without marking it as used."""
        return label in self._rows

    def look_up(self, labels: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Copy the entries of labels and mark them as most recently used.

        Returns:
            float32 [n, dim] of unit L2 norm, int32 [n] token counts, and the positions of the labels that are
            not cached. Their embeddings and counts are undefined.
        """
        with self._lock:
            numbers = self.find(labels)
            missing = (
                [index for index, row in enumerate(numbers) if row == ABSENT] if ABSENT in numbers else []
            )
            return *self.rows(numbers), missing

    def add(self, entries: Iterable[tuple[bytes, np.ndarray, int]]) -> int:
        """Add entries of label, embedding and token count; return the number of entries evicted."""
        with self._lock:
            return sum(self.put(*entry) for entry in entries)

    def find(self, labels: Iterable[bytes]) -> list[int]:
        """Return the row of each label or ABSENT, and mark the labels as most recently used."""
        get, touch = self._rows.get, self._rows.move_to_end
        rows = []
        for label in labels:
            row = get(label, ABSENT)
            if row != ABSENT:
                touch(label)
            rows.append(row)
        return rows

    def rows(self, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Copy the rows that `find` returned: float32 [n, dim] of unit L2 norm, int32 [n] token counts.

        Entries for ABSENT rows are undefined.
        """
        indices = np.array(numbers, np.int64)
        return self._embeds.take(indices, axis=0), self._token_counts.take(indices)

    def put(self, label: bytes, embedding: np.ndarray, token_count: int) -> int:
        """Add an entry and evict the least recently used ones that no longer fit.

        An entry that is larger than the whole cache is not added.

        Args:
            label: UTF-8 text.
            embedding: float32 [dim], unit L2 norm.
            token_count: Tokens before truncation, including start and end token.

        Returns:
            The number of entries evicted.
        """
        size = self.entry_bytes(label)
        if label in self._rows or size > self._capacity_bytes:
            return 0
        evicted = 0
        while self.size_bytes + size > self._capacity_bytes:
            oldest, row = self._rows.popitem(last=False)
            self._free.append(row)
            self.size_bytes -= self.entry_bytes(oldest)
            evicted += 1
        if not self._free:
            self._grow()
        row = self._free.pop()
        self._embeds[row], self._token_counts[row] = embedding, token_count
        self._rows[label] = row
        self.size_bytes += size
        return evicted

    def entry_bytes(self, label: bytes) -> int:
        """Return the size of an entry that counts against the capacity."""
        return len(label) + self._embeds.itemsize * self._embeds.shape[1] + ENTRY_OVERHEAD_BYTES

    def _grow(self) -> None:
        """Double the matrix, at most to the number of entries that the capacity allows."""
        old = len(self._embeds)
        new = min(max(64, 2 * old), self._capacity_bytes // self.entry_bytes(b"") + 1)
        self._embeds = np.concatenate(
            [self._embeds, np.zeros((new - old, self._embeds.shape[1]), np.float32)]
        )
        self._token_counts = np.concatenate([self._token_counts, np.zeros(new - old, np.int32)])
        self._free = list(range(new - 1, old - 1, -1))
