"""The vector stores: recall against an exhaustive search, and equal results from LanceDB and Chroma."""

import datetime
import pickle
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.servers import run_python
from tests.helpers.waiting import wait_until
from tests.server.search.conftest import FEW
from tests.server.search.index_rows import assert_same, rows_of
from tritonclip.errors import InvalidInputError, ServerUnavailableError
from tritonclip.search import SearchIndex, _ann, _chroma, _lance
from tritonclip.search._store import open_store
from tritonclip.search._types import Entry, Identity, IndexRow, Stamp, entry_id
from tritonclip_server.benchmarks.search.vectors import Clustered, nearest, uniform

DIM = 512
IDENTITY = Identity(sha256="1" * 64, checkpoint="drawn", dim=DIM)


def fill(place, vectors):
    store = open_store(str(place), replace(IDENTITY, dim=vectors.shape[1]))
    for start in range(0, len(vectors), store.flush_rows):
        batch = range(start, min(start + store.flush_rows, len(vectors)))
        store.put([IndexRow(entry=entry(number), stamp=Stamp(), vector=vectors[number]) for number in batch])
    store.optimize()
    return store


def entry(number):
    path = f"/images/{number}.jpg"
    return Entry(
        id=entry_id("image", path), kind="image", path=path, name=f"{number}.jpg", sha256=str(number)
    )


def recall(store, vectors, queries):
    """Return the share of the true ten nearest rows that an approximate search finds."""
    assert any(_ann.trained_rows(index.name) for index in store._table.list_indices())
    correct = 0
    for query, true in zip(queries, nearest(vectors, queries, 10), strict=True):
        hits = store.search(query, 10, "image")
        assert len(hits) == 10
        correct += len({hit.entry.name for hit in hits} & {f"{number}.jpg" for number in true})
    return correct / (10 * len(queries))


@pytest.fixture
def small_counts_as_large(monkeypatch):
    """Search approximately, in several partitions, from 2000 rows on."""
    monkeypatch.setattr(_ann, "EXACT_ROWS", 2000)
    monkeypatch.setattr(_ann, "ROWS_PER_PARTITION", 512)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clustered", "uniform"])
def test_100_000_vectors_reach_99_percent_recall(tmp_path, record_property, kind):
    made = Clustered(DIM)
    if kind == "clustered":
        vectors = made.images(100_000, 1)
        queries = {"image": made.images(100, 2), "text": made.texts(100, 3)}
    else:
        vectors, queries = uniform(100_000, DIM, 1), {"uniform": uniform(100, DIM, 2)}
    store = fill(tmp_path / "index", vectors)
    for name in queries:
        found = recall(store, vectors, queries[name])
        record_property(f"recall@10 of {name} queries", found)
        assert found >= 0.99


def test_large_index_keeps_its_recall_after_changes(tmp_path, small_counts_as_large):
    made = Clustered(DIM)
    vectors = made.images(2500, 1)
    store = fill(tmp_path / "index", vectors)
    for queries in (made.images(50, 4), made.texts(50, 5)):
        assert recall(store, vectors, queries) >= 0.99
    vectors[:200] = made.images(200, 2)
    store.put([IndexRow(entry=entry(number), stamp=Stamp(), vector=vectors[number]) for number in range(200)])
    store.delete([entry(number).id for number in range(2300, 2500)])
    queries = made.images(30, 3)
    assert recall(store, vectors[:2300], queries) >= 0.99  # before the vector index covers the new rows
    store.optimize()
    assert recall(store, vectors[:2300], queries) >= 0.99
    assert store.count() == 2300
    hits = store.search(vectors[3], 1, "image")
    assert (hits[0].entry, pytest.approx(hits[0].score, abs=1e-5)) == (entry(3), 1)
    assert store.get(entry(2400).id) is None
    assert store.get(entry(7).id) == entry(7)


def test_open_reader_sees_rows_written_later(tmp_path, monkeypatch):
    monkeypatch.setattr(_lance, "REFRESH_INTERVAL", datetime.timedelta(milliseconds=50))
    vectors = uniform(30, DIM, 1)
    store = fill(tmp_path / "index", vectors[:20])
    reader = open_store(str(tmp_path / "index"), None)
    assert reader.count() == 20
    store.put(
        [IndexRow(entry=entry(number), stamp=Stamp(), vector=vectors[number]) for number in range(20, 30)]
    )
    store.optimize()
    wait_until(
        lambda: reader.search(vectors[25], 1, None)[0].entry == entry(25), "the reader did not refresh", 60
    )


def test_chroma_and_lancedb_return_the_same_results(clip, chroma, few, tmp_path):
    places = [f"{chroma}/pictures", tmp_path / "index"]
    for place in places:
        with SearchIndex.open(place, clip, create=True) as index:
            assert index.sync([few]).embedded == FEW
    assert_same(places[0], places[1])
    with SearchIndex.open(places[0], clip) as remote, SearchIndex.open(places[1], clip) as local:
        for query in (clip.embed_texts("a red circle"), clip.embed_images(next(few.rglob("*heart.jpg")))):
            from_chroma, from_lance = remote.search(query, 10), local.search(query, 10)
            assert [hit.entry for hit in from_chroma] == [hit.entry for hit in from_lance]
            np.testing.assert_allclose(
                [hit.score for hit in from_chroma], [hit.score for hit in from_lance], atol=2e-6
            )
        assert remote.get(from_chroma[0].entry.id) == from_chroma[0].entry
        assert remote.get("0" * 32) is None
        assert remote.duplicates(0.99) == local.duplicates(0.99)


def test_forked_children_get_their_own_rows_from_chroma(chroma):
    place = f"{chroma}/forked"
    fill(place, np.eye(2, dtype=np.float32))
    code = """
import os, sys
from tritonclip.search import SearchIndex

place, *ids = sys.argv[1:]
index = SearchIndex.open(place)
assert all(index.get(id).id == id for id in ids)
children = []
for id in ids:
    child = os.fork()
    if not child:
        try:
            os._exit(not all(index.get(id).id == id for _ in range(50)))
        finally:
            os._exit(2)
    children.append(child)
assert all(index.get(ids[0]).id == ids[0] for _ in range(50))
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
"""
    done = run_python(code, place, entry(0).id, entry(1).id)
    assert done.returncode == 0, done.stderr


def test_index_says_how_to_use_it_in_another_process(tmp_path):
    fill(tmp_path / "index", np.eye(2, dtype=np.float32))
    with SearchIndex.open(tmp_path / "index") as index, pytest.raises(TypeError, match=r"SearchIndex\.open"):
        pickle.dumps(index)


def test_chroma_index_follows_changed_files(clip, chroma, few, tmp_path):
    captions = tmp_path / "captions.txt"
    captions.write_text("a red circle\na blue heart\n", encoding="utf-8")
    place = f"{chroma}/changing"
    with SearchIndex.open(place, clip, create=True) as index:
        index.sync([few], text_files=[captions])
        files = sorted(few.rglob("*.jpg"))
        files[0].unlink()
        files[1].rename(few / "renamed.jpg")
        summary = index.sync([few])
        assert (summary.embedded, summary.reused, summary.deleted) == (0, 1, 2)
        assert (index.count("image"), index.count("text"), index.count()) == (FEW - 1, 2, FEW + 1)
        assert index.search(clip.embed_texts("a red circle"), 1, kind="text")[0].score > 0.999
    with SearchIndex.open(tmp_path / "fresh", clip, create=True) as index:
        index.sync([few])
    assert_same(place, tmp_path / "fresh")


def test_chroma_index_of_other_weights_is_rejected(clip, chroma):
    open_store(f"{chroma}/other", IDENTITY)
    for create in (False, True):
        with pytest.raises(
            InvalidInputError, match="'drawn'.*vectors of different weights, settings or code cannot"
        ):
            SearchIndex.open(f"{chroma}/other", clip, create=create)
    assert open_store(f"{chroma}/other", None).identity == IDENTITY  # opening did not overwrite it


def test_chroma_writes_more_rows_than_fit_in_one_request(chroma):
    vectors = uniform(_chroma.FLUSH_ROWS + 20, 16, 1)
    store = fill(f"{chroma}/many", vectors)
    rows = rows_of(store)
    assert len(rows) == len(vectors)
    for number in (0, 100, len(vectors) - 1):
        np.testing.assert_allclose(
            rows[entry(number).id][2], vectors[number], atol=1e-7
        )  # Chroma normalises again
    store.delete([entry(number).id for number in range(_chroma.FLUSH_ROWS + 10)])
    assert store.count() == 10


@pytest.mark.parametrize(
    ("address", "error", "text"),
    [
        ("chroma://127.0.0.1:1/pictures", ServerUnavailableError, "no Chroma server answers"),
        ("chroma://127.0.0.1:1", InvalidInputError, "expected chroma://host:port/collection"),
        ("chroma://127.0.0.1:1/a/b", InvalidInputError, "expected chroma://host:port/collection"),
    ],
)
def test_wrong_address_is_rejected(address, error, text):
    with pytest.raises(error, match=text):
        open_store(address, None)


def test_missing_collection_is_rejected(chroma):
    with pytest.raises(InvalidInputError, match="404"):
        open_store(f"{chroma}/nothing", None)
