"""Content of an index, for comparisons of two indexes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tritonclip.search._store import Store, open_store


def rows_of(store: Store | Path | str) -> dict[str, tuple[str, str, np.ndarray]]:
    """Return the path, SHA-256 and vector of each image by ID."""
    opened = open_store(str(store), None) if isinstance(store, (str, Path)) else store
    rows = {}
    for entries, vectors in opened.blocks("image", 500):
        for entry, vector in zip(entries, vectors, strict=True):
            assert entry.id not in rows
            rows[entry.id] = (entry.path, entry.sha256, vector)
    return rows


def assert_same(left: Store | Path | str, right: Store | Path | str) -> None:
    """Assert that two indexes hold the same images; vectors may differ by the effect of batching."""
    first, second = rows_of(left), rows_of(right)
    assert first.keys() == second.keys()
    assert {id: row[:2] for id, row in first.items()} == {id: row[:2] for id, row in second.items()}
    ids = list(first)
    np.testing.assert_allclose([first[i][2] for i in ids], [second[i][2] for i in ids], atol=2e-6)
