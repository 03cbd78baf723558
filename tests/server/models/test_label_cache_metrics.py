"""The label-embedding cache of a running server, observed by its metrics."""

from tests.helpers.calls import bytes_tensor, cache_counts, infer, parameters, together
from tests.helpers.servers import PRELOADED_LABELS
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

DISTINCT = 10_000


def embed(server, labels):
    return infer(
        server, "grpc", "clip_text_embedding", text=bytes_tensor([label.encode() for label in labels])
    )


def increase(server, before):
    after = cache_counts(server)
    return {name: after[name] - before[name] for name in after}


def test_preloaded_labels_are_encoded_at_load(demo_repository):
    with EmbeddedTriton(demo_repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as fresh:
        assert cache_counts(fresh)["misses_total"] == cache_counts(fresh)["entries"] == len(PRELOADED_LABELS)
        embed(fresh, PRELOADED_LABELS)
        assert cache_counts(fresh)["misses_total"] == len(PRELOADED_LABELS)
        assert cache_counts(fresh)["hits_total"] == len(PRELOADED_LABELS)


def test_repeated_label_is_encoded_once(server):
    labels = [f"a label of this test, number {number}" for number in range(20)]
    before = cache_counts(server)
    embed(server, labels + labels)
    assert increase(server, before)["misses_total"] == 20
    assert increase(server, before)["hits_total"] == 20
    answers = together(32, lambda index: embed(server, labels[index % 7 :]))
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    assert increase(server, before)["misses_total"] == 20


def test_concurrent_requests_share_one_encoding(server):
    labels = [f"asked for by everybody at once, {number}" for number in range(5)]
    before = cache_counts(server)
    together(32, lambda index: embed(server, labels))
    change = increase(server, before)
    assert change["misses_total"] == 5
    assert change["hits_total"] == 32 * 5 - 5


def test_size_stays_within_the_limit_for_many_distinct_labels(server):
    bound = int(parameters(server, "text_encoder")["cache_bytes"])
    before = cache_counts(server)
    for start in range(0, DISTINCT, 1000):
        embed(server, [f"distinct label {number}" for number in range(start, start + 1000)])
        assert cache_counts(server)["bytes"] <= bound
    change, after = increase(server, before), cache_counts(server)
    assert change["misses_total"] == DISTINCT
    assert change["evictions_total"] > 0
    assert before["entries"] + DISTINCT - change["evictions_total"] == after["entries"]
    embed(server, [f"distinct label {DISTINCT - 1}"])
    assert increase(server, before)["hits_total"] == 1


def test_answers_are_correct_while_entries_are_evicted(server):
    labels = [f"turned over {number}" for number in range(3000)]
    first = embed(server, labels)["text_embeds"]
    again = embed(server, labels[::-1])["text_embeds"][:, ::-1]
    assert abs(first - again).max() < 1e-5
