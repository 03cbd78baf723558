"""Search results and indexes as text, HTML and tables."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from tritonclip._answers.html import MAX_ROWS
from tritonclip.search import DuplicateGroup, Entry, Hit, Hits, SearchIndex
from tritonclip.search._store import open_store
from tritonclip.search._types import Identity, IndexRow, Kind, Stamp

HOSTILE = "<script>alert(1)</script>"


def hit(path: str, name: str, kind: Kind = "image", score: float = 0.25) -> Hit:
    return Hit(score=score, entry=Entry(id="1", kind=kind, path=path, name=name, sha256="0" * 64))


def test_reprs_are_one_short_line() -> None:
    found = hit("/photos/cat.jpg", "cat.jpg\n" * 100)
    group = DuplicateGroup(cosine=0.98765, exact=False, entries=[found.entry] * 100)
    row = IndexRow(entry=found.entry, stamp=Stamp(), vector=np.ones(512, np.float32))
    assert repr(hit("/photos/cat.jpg", "cat.jpg")) == "<Hit 0.2500 image 'cat.jpg'>"
    assert repr(group).startswith("<DuplicateGroup 100 images, cosine 0.9877, 'cat.jpg")
    for value in (found, found.entry, group, row):
        assert len(repr(value)) < 300 and "\n" not in repr(value)


def test_repr_of_an_index_has_address_and_checkpoint(tmp_path: Path) -> None:
    address = str(tmp_path / "photos.index")
    identity = Identity(sha256="0" * 64, checkpoint="openai/clip", dim=4)
    with SearchIndex(open_store(address, identity), address, None) as index:
        assert repr(index) == f"<tritonclip.SearchIndex {address!r}, 'openai/clip', 4 dimensions>"
        index._address = "chroma://me:secret@host:8000/photos"
        assert repr(index).startswith("<tritonclip.SearchIndex 'chroma://host:8000/photos', ")


def test_results_are_a_list_and_pickle() -> None:
    found = Hits([hit("cat.jpg", "cat.jpg"), hit("dog.jpg", "dog.jpg")])
    assert found == [hit("cat.jpg", "cat.jpg"), hit("dog.jpg", "dog.jpg")]
    copied = pickle.loads(pickle.dumps(found))
    assert type(copied) is Hits and copied == found and type(found[:1]) is Hits


def test_html_shows_images_and_texts(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    Image.new("RGB", (40, 30)).save(path)
    found = Hits([hit(str(path), HOSTILE), hit("texts.txt", HOSTILE, "text"), hit("gone.jpg", "gone.jpg")])
    html = found._repr_html_()
    assert html.count("<tr>") == 3 and html.count("<img") == 1 and html.count("cosine 0.2500") == 3
    assert html.count("&lt;script&gt;alert(1)") == 2 and "<script" not in html
    assert "and 7 more" in Hits([hit("gone.jpg", "gone.jpg")] * (MAX_ROWS + 7))._repr_html_()


def test_tables_of_results() -> None:
    found = Hits([hit("/photos/cat\udcff.jpg", "cat\udcff.jpg")])
    row = {"score": 0.25, "kind": "image", "name": r"cat\xff.jpg", "path": r"/photos/cat\xff.jpg", "id": "1"}
    assert found.to_arrow().to_pylist() == [row] == found.to_pandas().to_dict("records")
    assert Hits().to_arrow().schema == found.to_arrow().schema
    assert list(Hits().to_pandas().columns) == list(row)
