"""The vector stores that are compared, with a common interface.

Rows are numbered. Vectors are float32 [n, d] of unit length. A store that keeps vectors only (usearch, faiss)
rewrites its file after a change; the others write the changed rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tritonclip.search import _ann

Array = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
PROBES = 128
"""Number of faiss cells that a search visits, of about 316."""


class VectorStore(Protocol):
    """A store in a directory, which may be empty."""

    def build(self, ids: Ids, vectors: Array) -> None:
        """Write all vectors, and build the index."""

    def open(self) -> None:
        """Open the store for searches in a new process."""

    def search(self, query: Array, k: int) -> Iterable[int]:
        """Return the numbers of the nearest rows."""

    def update(self, gone: Ids, ids: Ids, vectors: Array) -> None:
        """Delete the rows `gone`, write the rows `ids`, and make both durable."""


class Exact:
    """A file of float32 that is multiplied with the query, without index and in-place updates."""

    def __init__(self, directory: Path) -> None:
        self._path, self._ids_path = directory / "vectors.npy", directory / "ids.npy"

    def build(self, ids: Ids, vectors: Array) -> None:
        """See `VectorStore`."""
        np.save(self._path, vectors)
        np.save(self._ids_path, ids)

    def open(self) -> None:
        """See `VectorStore`."""
        self._vectors, self._ids = np.load(self._path, mmap_mode="r"), np.load(self._ids_path)

    def search(self, query: Array, k: int) -> Iterable[int]:
        """See `VectorStore`."""
        scores = self._vectors @ query
        return [int(i) for i in self._ids[np.argpartition(-scores, k)[:k]]]

    def update(self, gone: Ids, ids: Ids, vectors: Array) -> None:
        """See `VectorStore`."""
        stay = ~np.isin(self._ids, np.concatenate([gone, ids]))
        self.build(np.concatenate([self._ids[stay], ids]), np.concatenate([self._vectors[stay], vectors]))
        self.open()


class Lance:
    """LanceDB with the settings of `tritonclip.search`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def build(self, ids: Ids, vectors: Array) -> None:
        """See `VectorStore`."""
        import lancedb

        table = lancedb.connect(self._directory).create_table("rows", self._rows(ids, vectors))
        self._train(table, len(ids))

    def open(self) -> None:
        """See `VectorStore`."""
        import lancedb

        self._table: Any = lancedb.connect(self._directory).open_table("rows")
        self._partitions = _ann.partitions(self._table.count_rows())

    def search(self, query: Array, k: int) -> Iterable[int]:
        """See `VectorStore`."""
        query_builder = self._table.search(query).distance_type("l2").nprobes(self._partitions)
        query_builder = query_builder.refine_factor(_ann.REFINE).select(["id", "_distance"]).limit(k)
        return [int(i) for i in query_builder.to_arrow()["id"].to_pylist()]

    def update(self, gone: Ids, ids: Ids, vectors: Array) -> None:
        """See `VectorStore`."""
        merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(self._rows(ids, vectors))
        self._table.delete(f"id in ({', '.join(map(str, gone))})")
        self._table.optimize()

    def _train(self, table: Any, count: int) -> None:
        from lancedb.index import IvfRq

        config = IvfRq(distance_type="l2", num_partitions=_ann.partitions(count), num_bits=_ann.BITS)
        table.create_index("vector", config=config)

    def _rows(self, ids: Ids, vectors: Array) -> Any:
        import pyarrow as pa

        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        return pa.table({"id": pa.array(ids), "vector": lists})


class Usearch:
    """usearch: a graph (HNSW) of float16 vectors, searched in a memory-mapped file."""

    def __init__(self, directory: Path) -> None:
        self._path = str(directory / "index.usearch")

    def build(self, ids: Ids, vectors: Array) -> None:
        """See `VectorStore`."""
        index = self._make(vectors.shape[1])
        index.add(ids, vectors)
        self._save(index)

    def open(self) -> None:
        """See `VectorStore`."""
        from usearch.index import Index

        self._index: Any = Index.restore(self._path, view=True)
        self._index.expansion_search = 256

    def search(self, query: Array, k: int) -> Iterable[int]:
        """See `VectorStore`."""
        return [int(i) for i in self._index.search(query, k).keys]

    def update(self, gone: Ids, ids: Ids, vectors: Array) -> None:
        """See `VectorStore`."""
        index = self._make(vectors.shape[1])
        index.load(self._path)
        index.remove(np.concatenate([gone, ids]))
        index.add(ids, vectors)
        self._save(index)
        self.open()

    def _make(self, dim: int) -> Any:
        from usearch.index import Index

        return Index(ndim=dim, metric="ip", dtype="f16")

    def _save(self, index: Any) -> None:
        index.save(f"{self._path}.new")
        os.replace(f"{self._path}.new", self._path)


class Faiss:
    """faiss: cells (IVF) of float32 vectors in memory."""

    def __init__(self, directory: Path) -> None:
        self._path = str(directory / "index.faiss")

    def build(self, ids: Ids, vectors: Array) -> None:
        """See `VectorStore`."""
        import faiss

        cells = int(len(ids) ** 0.5)
        index: Any = faiss.index_factory(vectors.shape[1], f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(vectors[:: max(1, len(ids) // (40 * cells))])
        index.add_with_ids(vectors, ids)
        self._save(index)

    def open(self) -> None:
        """See `VectorStore`."""
        import faiss

        index: Any = faiss.read_index(self._path)
        self._index = index
        self._index.nprobe = PROBES

    def search(self, query: Array, k: int) -> Iterable[int]:
        """See `VectorStore`."""
        return [int(i) for i in self._index.search(query[None], k)[1][0]]

    def update(self, gone: Ids, ids: Ids, vectors: Array) -> None:
        """See `VectorStore`."""
        self._index.remove_ids(np.concatenate([gone, ids]))
        self._index.add_with_ids(vectors, ids)
        self._save(self._index)

    def _save(self, index: Any) -> None:
        import faiss

        faiss.write_index(index, f"{self._path}.new")
        os.replace(f"{self._path}.new", self._path)


class DuckDb:
    """DuckDB: an exact scan, without the extension VSS, which DuckDB would download on use."""

    def __init__(self, directory: Path) -> None:
        self._path = str(directory / "rows.duckdb")

    def build(self, ids: Ids, vectors: Array) -> None:
        """See `VectorStore`."""
        import duckdb

        self._db: Any = duckdb.connect(self._path)
        self._db.execute(f"create table rows (id bigint, vector float[{vectors.shape[1]}])")
        self._insert(ids, vectors)
        self._db.close()

    def open(self) -> None:
        """See `VectorStore`."""
        import duckdb

        self._db = duckdb.connect(self._path)

    def search(self, query: Array, k: int) -> Iterable[int]:
        """See `VectorStore`."""
        score = f"array_inner_product(vector, ?::float[{len(query)}])"
        rows = self._db.execute(f"select id from rows order by {score} desc limit {k}", [query.tolist()])
        return [row[0] for row in rows.fetchall()]

    def update(self, gone: Ids, ids: Ids, vectors: Array) -> None:
        """See `VectorStore`."""
        self._db.execute("begin")
        self._db.execute(f"delete from rows where id in ({', '.join(map(str, np.concatenate([gone, ids])))})")
        self._insert(ids, vectors)
        self._db.execute("commit")
        self._db.execute("checkpoint")

    def _insert(self, ids: Ids, vectors: Array) -> None:
        import pyarrow as pa

        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        self._db.register("given", pa.table({"id": pa.array(ids), "vector": lists}))
        self._db.execute("insert into rows select * from given")
        self._db.unregister("given")


STORES: dict[str, type[Any]] = {
    "exact": Exact,
    "lancedb": Lance,
    "usearch": Usearch,
    "faiss": Faiss,
    "duckdb": DuckDb,
}
