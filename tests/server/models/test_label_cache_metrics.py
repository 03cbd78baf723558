"""The label-embedding cache of a running server, observed by its metrics."""

import pytest

from tests.helpers.calls import bytes_tensor, cache_counts, infer, parameters, together
from tests.helpers.servers import PRELOADED_LABELS

DISTINCT = 3000
"""Labels that do not fit into the cache of the server."""


def embed(server, labels):
    return infer(
        server, "grpc", "clip_text_embedding", text=bytes_tensor([label.encode() for label in labels])
    )


def increase(server, before):
    after = cache_counts(server)
    return {name: after[name] - before[name] for name in after}


@pytest.mark.variant("bfloat16")
def test_preloaded_labels_are_encoded_at_load(server):
    """Only this test requests these labels, and the cache of this server is large."""
    before = cache_counts(server)
    assert before["misses_total"] >= len(PRELOADED_LABELS)
    embed(server, PRELOADED_LABELS)
    change = increase(server, before)
    assert change["misses_total"] == change["entries"] == 0
    assert change["hits_total"] == len(PRELOADED_LABELS)


def test_repeated_label_is_encoded_once(server):
    labels = [f"a label of this test, number {number}" for number in range(20)]
    before = cache_counts(server)
    embed(server, labels + labels)
    assert increase(server, before)["misses_total"] == 20
    assert increase(server, before)["hits_total"] == 20
    answers = together(16, lambda index: embed(server, labels[index % 7 :]))
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    assert increase(server, before)["misses_total"] == 20


def test_concurrent_requests_share_one_encoding(server):
    labels = [f"asked for by everybody at once, {number}" for number in range(5)]
    before = cache_counts(server)
    together(16, lambda index: embed(server, labels))
    change = increase(server, before)
    assert change["misses_total"] == 5
    assert change["hits_total"] == 16 * 5 - 5


def test_size_stays_within_the_limit_and_answers_correct_for_many_distinct_labels(server):
    bound = int(parameters(server, "text_encoder")["cache_bytes"])
    before = cache_counts(server)
    labels = [f"distinct label {number}" for number in range(DISTINCT)]
    first = []
    for start in range(0, DISTINCT, 1000):
        first += list(embed(server, labels[start : start + 1000])["text_embeds"][0])
        assert cache_counts(server)["bytes"] <= bound
    change, after = increase(server, before), cache_counts(server)
    assert change["misses_total"] == DISTINCT
    assert change["evictions_total"] > 0
    assert before["entries"] + DISTINCT - change["evictions_total"] == after["entries"]
    embed(server, labels[-1:])
    assert increase(server, before)["hits_total"] == 1
    again = embed(server, labels[::-1])["text_embeds"][0, ::-1]
    assert abs(first - again).max() < 1e-5
