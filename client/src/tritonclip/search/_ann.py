"""Settings of the approximate search in a large LanceDB index.

The index stores a code of 4 bits for each value of a vector (RaBitQ). A search ranks all codes, then compares
the original vectors of the best candidates.

Every partition is scanned. Texts are far from the images that they describe, so the neighbours of a text are
spread over the partitions: a scan of only a quarter of them misses a sixth of the neighbours
(`tritonclip-server benchmark search`).

This module does not import LanceDB, so the benchmark can read the settings without loading it.
"""

from __future__ import annotations

BITS = 4
REFINE = 12
"""The original vectors of `REFINE * top_k` candidates are compared."""

EXACT_ROWS = 20_000
"""Up to this number of rows, a search compares all vectors."""

ROWS_PER_PARTITION = 4096
GROWTH = 4
"""The index is trained again after it has grown by this factor."""


def partitions(rows: int) -> int:
    """Return the number of partitions for an index of `rows` rows."""
    return max(1, rows // ROWS_PER_PARTITION)


def index_name(rows: int) -> str:
    """Return the name of a vector index that is trained on `rows` rows."""
    return f"vectors_{rows}"


def trained_rows(name: str) -> int | None:
    """Return the number of rows in a name made by `index_name`, or None for any other name."""
    head, _, rows = name.partition("_")
    return int(rows) if head == "vectors" and rows.isdigit() else None
