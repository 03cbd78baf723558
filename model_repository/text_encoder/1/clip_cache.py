"""The label-embedding cache: least recently used first out, bounded in bytes, keyed by a label's UTF-8 bytes.

One cache belongs to one model instance and is used from one thread. Counting is the caller's: the cache only
says what it evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np

ENTRY_OVERHEAD_BYTES = 400
"""What an entry takes besides label and numbers: headers of bytes and array, the tuple, the table's slots."""


class LabelEmbedding(NamedTuple):
    """What the text tower makes of one label."""

    embedding: np.ndarray
    """float32 [dim], unit L2 norm."""
    token_count: int
    """Tokens before truncation, start and end included."""


class LabelCache:
    """A least-recently-used cache of label embeddings.

    Args:
        capacity_bytes: Bound on the sum of the entries' sizes; 0 keeps nothing.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._entries: OrderedDict[bytes, LabelEmbedding] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        """Entries held."""
        return len(self._entries)

    def get(self, label: bytes) -> LabelEmbedding | None:
        """The entry of `label`, now the most recently used; None where there is none."""
        entry = self._entries.get(label)
        if entry is not None:
            self._entries.move_to_end(label)
        return entry

    def put(self, label: bytes, entry: LabelEmbedding) -> int:
        """Keeps `entry` and drops the least recently used ones that no longer fit.

        Returns:
            The number of entries dropped to make room. An entry larger than the whole cache is not kept.
        """
        size = entry_bytes(label, entry)
        if label in self._entries or size > self._capacity_bytes:
            return 0
        self._entries[label] = entry
        self.size_bytes += size
        evicted = 0
        while self.size_bytes > self._capacity_bytes:
            self.size_bytes -= entry_bytes(*self._entries.popitem(last=False))
            evicted += 1
        return evicted


def entry_bytes(label: bytes, entry: LabelEmbedding) -> int:
    """The size that an entry is charged with."""
    return len(label) + entry.embedding.nbytes + ENTRY_OVERHEAD_BYTES
