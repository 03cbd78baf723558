import numpy as np
import pytest

from clip_cache import ABSENT, LabelCache
from clip_common.groups import EmbeddingError, RequestError
from clip_labels import LabelEmbedder, check_label, read_label_file

DIM = 8


class Encoder:
    """A text encoder that returns the length of each text and records its calls."""

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
    return np.full(DIM, value, np.float32), 3


def capacity(labels):
    return sum(map(LabelCache(0, DIM).entry_bytes, labels))


def test_least_recently_used_entry_is_evicted_first():
    cache = LabelCache(capacity([b"a", b"b"]), DIM)
    assert [cache.put(label, *entry()) for label in (b"a", b"b")] == [0, 0]
    assert cache.find([b"a"]) != [ABSENT]
    assert cache.put(b"c", *entry()) == 1
    assert [row == ABSENT for row in cache.find([b"b", b"a", b"c"])] == [True, False, False]


def test_membership_test_does_not_mark_a_label_as_used():
    cache = LabelCache(capacity([b"a", b"b"]), DIM)
    for label in (b"a", b"b"):
        cache.put(label, *entry())
    assert b"a" in cache
    cache.put(b"c", *entry())
    assert b"a" not in cache
    assert b"b" in cache


def test_size_stays_within_the_capacity():
    cache = LabelCache(10_000, DIM)
    labels = [b"label %d" % number for number in range(1000)]
    evicted = sum(cache.put(label, *entry()) for label in labels)
    assert cache.size_bytes <= 10_000
    assert len(cache) + evicted == 1000
    held = [label for label in labels if label in cache]
    assert held == labels[-len(cache) :]
    assert cache.size_bytes == capacity(held)


def test_labels_keep_their_embeddings_while_others_are_evicted():
    cache = LabelCache(capacity([b"label %d" % number for number in range(100, 300)]), DIM)
    random = np.random.default_rng(0)
    for number in random.integers(0, 1000, 2000).tolist():
        label = b"label %d" % number
        (row,) = cache.find([label])
        if row == ABSENT:
            cache.put(label, *entry(number))
            (row,) = cache.find([label])
        embeds, token_counts = cache.rows([row])
        assert (embeds == number).all()
        assert token_counts.tolist() == [3]


@pytest.mark.parametrize("size", [0, 10])
def test_entry_larger_than_the_cache_is_not_added(size):
    cache = LabelCache(size, DIM)
    assert cache.put(b"a", *entry()) == 0
    assert (len(cache), cache.size_bytes) == (0, 0)


@pytest.mark.parametrize("size", [0, 1 << 20])
def test_repeated_label_of_a_request_is_encoded_once(encoder, size):
    embedder = LabelEmbedder(encoder, LabelCache(size, DIM))
    embeds, token_counts, counts = embedder.embed([b"cat", b"horse", b"cat", b"cat"])
    assert encoder.calls == [["cat", "horse"]]
    assert embeds[:, 0].tolist() == [3, 5, 3, 3]
    assert token_counts.tolist() == [5, 7, 5, 5]
    assert (counts.hits, counts.misses) == (2, 2)


def test_cached_label_is_not_encoded_again(encoder):
    embedder = LabelEmbedder(encoder, LabelCache(1 << 20, DIM))
    embedder.embed([b"cat", b"horse"])
    embeds, token_counts, counts = embedder.embed([b"horse", b"ox", b"cat", b"ox"])
    assert encoder.calls[1:] == [["ox"]]
    assert embeds[:, 0].tolist() == [5, 2, 3, 2]
    assert token_counts.tolist() == [7, 4, 5, 4]
    assert (counts.hits, counts.misses) == (3, 1)


def test_label_whose_embedding_is_not_finite_is_reported_and_not_cached():
    def encode(texts):
        values = [np.nan if text == "bad" else 1.0 for text in texts]
        return np.array([[value] * DIM for value in values], np.float32), [3] * len(texts)

    cache = LabelCache(1 << 20, DIM)
    embedder = LabelEmbedder(encode, cache)
    embedder.embed([b"good"])
    for _ in range(2):
        with pytest.raises(EmbeddingError, match="label 2 has an embedding with NaN or infinity"):
            embedder.embed([b"good", b"new", b"bad"])
    assert b"bad" not in cache
    assert np.isfinite(embedder.embed([b"new"])[0]).all()


def test_labels_are_distinguished_by_their_exact_bytes(encoder):
    embedder = LabelEmbedder(encoder, LabelCache(1 << 20, DIM))
    composed, decomposed = "é".encode(), b"e\xcc\x81"
    embedder.embed([b"cat", b"Cat", b"cat ", composed, decomposed])
    assert len(encoder.calls[0]) == 5


def test_lookup_of_more_labels_than_the_cache_holds_succeeds(encoder):
    cache = LabelCache(capacity([b"1", b"2", b"3"]), DIM)
    labels = [b"x" * length for length in range(1, 50)]
    embeds, _, counts = LabelEmbedder(encoder, cache).embed(labels)
    assert embeds[:, 0].tolist() == list(range(1, 50))
    assert counts.evictions == counts.misses - len(cache)


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
def test_invalid_label_is_rejected_with_its_index(label, message):
    with pytest.raises(RequestError, match=message):
        check_label(label, 1, (1, 3), max_bytes=20)


def test_label_file_has_one_label_per_line(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("a cat\n\n  a dog  \nein Hühnchen\n", encoding="utf-8")
    assert read_label_file(path) == [b"a cat", b"a dog", "ein Hühnchen".encode()]
    assert read_label_file(tmp_path / "absent.txt") == []
