"""The label-embedding cache: least recently used first out, bounded in bytes, keyed by a label's UTF-8 bytes.

The embeddings lie in one matrix, so that a thousand known labels are one gather and no thousand arrays. One
cache belongs to one model instance and is used from one thread. Counting is the caller's: the cache only says
what it evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import numpy as np

ENTRY_OVERHEAD_BYTES = 300
"""What an entry takes besides label and embedding: the header of bytes, the table's slots, its row."""
ABSENT = -1
"""Stands where a row's number would, for a label that is not held."""


class LabelCache:
    """A least-recently-used cache of label embeddings.

    Args:
        capacity_bytes: Bound on the sum of the entries' sizes; 0 keeps nothing.
        dim: Numbers of an embedding.
    """

    def __init__(self, capacity_bytes: int, dim: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._rows: OrderedDict[bytes, int] = OrderedDict()
        self._free: list[int] = []
        self._embeds = np.empty((0, dim), np.float32)
        self._token_counts = np.empty(0, np.int32)
        self.size_bytes = 0
        self._grow()

    def __len__(self) -> int:
        """Entries held."""
        return len(self._rows)

    def __contains__(self, label: bytes) -> bool:
        """Whether a label is held; it does not count as used."""
        return label in self._rows

    def find(self, labels: Iterable[bytes]) -> np.ndarray:
        """The row of each label, int64 [n], ABSENT where it is not held; the others are now the last used."""
        get, touch = self._rows.get, self._rows.move_to_end
        found = []
        for label in labels:
            row = get(label, ABSENT)
            if row != ABSENT:
                touch(label)
            found.append(row)
        return np.array(found, np.int64)

    def rows(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Copies of rows that `find` has named: float32 [n, dim] of unit L2 norm, int32 [n] token counts.

        Where it named none, ABSENT, what stands there means nothing.
        """
        return self._embeds[numbers], self._token_counts[numbers]

    def put(self, label: bytes, embedding: np.ndarray, token_count: int) -> int:
        """Keeps an entry and drops the least recently used ones that no longer fit.

        Args:
            label: UTF-8.
            embedding: float32 [dim], unit L2 norm.
            token_count: Tokens before truncation, start and end included.

        Returns:
            The number of entries dropped to make room. An entry larger than the whole cache is not kept.
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
        """The size that an entry is charged with."""
        return len(label) + self._embeds.itemsize * self._embeds.shape[1] + ENTRY_OVERHEAD_BYTES

    def _grow(self) -> None:
        """Doubles the matrix, up to what the capacity can ever hold."""
        old = len(self._embeds)
        new = min(max(64, 2 * old), self._capacity_bytes // self.entry_bytes(b"") + 1)
        self._embeds = np.concatenate(
            [self._embeds, np.zeros((new - old, self._embeds.shape[1]), np.float32)]
        )
        self._token_counts = np.concatenate([self._token_counts, np.zeros(new - old, np.int32)])
        self._free = list(range(new - 1, old - 1, -1))
