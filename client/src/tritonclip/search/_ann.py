"""How a large index is searched: codes of 4 bits a value (RaBitQ), then the true vectors of the best.

All partitions are looked at. Fewer would be quicker, but texts lie apart from the images that they describe,
so their neighbours are spread over the partitions: with a quarter of them a sixth of the neighbours is missed
(`scripts/search_benchmark.py`).
"""

from __future__ import annotations

BITS = 4
REFINE = 12
"""The true vectors of so many times `top_k` candidates are compared."""

EXACT_ROWS = 20_000
"""Up to these, all vectors are compared."""

ROWS_A_PARTITION = 4096
GROWTH = 4
"""The partitions are chosen anew when an index has grown by this factor."""


def partitions(rows: int) -> int:
    """How many partitions an index of so many rows has."""
    return max(1, rows // ROWS_A_PARTITION)


def index_name(rows: int) -> str:
    """Of an index that was trained with so many rows."""
    return f"vectors_{rows}"


def trained_rows(name: str) -> int | None:
    """What `index_name` was given; None for the name of another index."""
    head, _, rows = name.partition("_")
    return int(rows) if head == "vectors" and rows.isdigit() else None
