import numpy as np
import pytest

from clip_cache import LabelCache, LabelEmbedding, entry_bytes
from clip_groups import RequestError
from clip_labels import LabelEmbedder, check_label, read_label_file

DIM = 8


class Encoder:
    """A text tower for the cache's purposes: a number for each text, and a record of what was asked for."""

    def __init__(self):
        self.calls = []

    def __call__(self, texts):
        self.calls.append(list(texts))
        return np.stack([np.full(DIM, len(text), np.float32) for text in texts]), [
            len(text) + 2 for text in texts
        ]


@pytest.fixture
def encoder():
    return Encoder()


def entry(value=0.0):
    return LabelEmbedding(np.full(DIM, value, np.float32), 3)


def capacity(labels):
    return sum(entry_bytes(label, entry()) for label in labels)


def test_the_least_recently_used_entry_goes_first():
    cache = LabelCache(capacity([b"a", b"b"]))
    assert [cache.put(label, entry()) for label in (b"a", b"b")] == [0, 0]
    assert cache.get(b"a") is not None
    assert cache.put(b"c", entry()) == 1
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None


def test_the_bound_holds_and_the_bytes_add_up():
    cache = LabelCache(10_000)
    labels = [b"label %d" % number for number in range(1000)]
    evicted = sum(cache.put(label, entry()) for label in labels)
    assert cache.size_bytes <= 10_000
    assert len(cache) + evicted == 1000
    held = [label for label in labels if cache.get(label) is not None]
    assert held == labels[-len(cache) :]
    assert cache.size_bytes == capacity(held)


@pytest.mark.parametrize("size", [0, 10])
def test_an_entry_larger_than_the_cache_is_not_kept(size):
    cache = LabelCache(size)
    assert cache.put(b"a", entry()) == 0
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_a_label_is_encoded_once_however_often_it_is_named(encoder):
    embedder = LabelEmbedder(encoder, LabelCache(1 << 20))
    embeds, token_counts, counts = embedder.embed([b"cat", b"horse", b"cat", b"cat"])
    assert encoder.calls == [["cat", "horse"]]
    assert embeds[:, 0].tolist() == [3, 5, 3, 3]
    assert token_counts.tolist() == [5, 7, 5, 5]
    assert (counts.hits, counts.misses) == (2, 2)
    _, _, again = embedder.embed([b"horse", b"cat", b"ox"])
    assert encoder.calls[1:] == [["ox"]]
    assert (again.hits, again.misses) == (2, 1)


def test_labels_are_told_apart_by_their_exact_bytes(encoder):
    embedder = LabelEmbedder(encoder, LabelCache(1 << 20))
    composed, decomposed = "é".encode(), b"e\xcc\x81"
    embedder.embed([b"cat", b"Cat", b"cat ", composed, decomposed])
    assert len(encoder.calls[0]) == 5


def test_one_look_up_may_name_more_labels_than_the_cache_holds(encoder):
    cache = LabelCache(capacity([b"1", b"2", b"3"]))
    labels = [b"x" * length for length in range(1, 50)]
    embeds, _, counts = LabelEmbedder(encoder, cache).embed(labels)
    assert embeds[:, 0].tolist() == list(range(1, 50))
    assert counts.evictions == counts.misses - len(cache)


def test_a_kept_embedding_does_not_keep_the_pass_alive(encoder):
    cache = LabelCache(1 << 20)
    LabelEmbedder(encoder, cache).embed([b"a", b"bb", b"ccc"])
    assert cache.get(b"a").embedding.base is None


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (b"", "label 1 is empty"),
        (b" \t\n", "label 1 is empty"),
        ("\u00a0\u3000".encode(), "label 1 is empty"),
        (b"ab\xff", "label 1 is not valid UTF-8 at byte 2"),
        (b"\xed\xa0\x80", "label 1 is not valid UTF-8 at byte 0"),
        (b"x" * 21, r"label 1 is too long: 21 bytes, the limit is 20 \(max_label_bytes\)"),
    ],
)
def test_bad_labels_are_refused_by_index(label, message):
    with pytest.raises(RequestError, match=message):
        check_label(label, 1, (1, 3), max_bytes=20)


def test_a_label_file_holds_one_label_a_line(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("a cat\n\n  a dog  \nein Hühnchen\n", encoding="utf-8")
    assert read_label_file(path) == [b"a cat", b"a dog", "ein Hühnchen".encode()]
    assert read_label_file(tmp_path / "absent.txt") == []
