"""The label-embedding cache, seen from outside: by the metrics of the running server."""

from tests.helpers.calls import bytes_tensor, cache_counts, infer, parameters, together
from tests.helpers.servers import PRELOADED_LABELS
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

DISTINCT = 10_000


def embed(server, labels):
    return infer(
        server, "grpc", "clip_text_embedding", text=bytes_tensor([label.encode() for label in labels])
    )


def moved(server, before):
    after = cache_counts(server)
    return {name: after[name] - before[name] for name in after}


def test_labels_of_the_file_were_encoded_at_load(demo_repository):
    with EmbeddedTriton(demo_repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as fresh:
        assert cache_counts(fresh)["misses_total"] == cache_counts(fresh)["entries"] == len(PRELOADED_LABELS)
        embed(fresh, PRELOADED_LABELS)
        assert cache_counts(fresh)["misses_total"] == len(PRELOADED_LABELS)
        assert cache_counts(fresh)["hits_total"] == len(PRELOADED_LABELS)


def test_a_repeated_label_is_never_encoded_twice(server):
    labels = [f"a label of this test, number {number}" for number in range(20)]
    before = cache_counts(server)
    embed(server, labels + labels)
    assert moved(server, before)["misses_total"] == 20
    assert moved(server, before)["hits_total"] == 20
    answers = together(32, lambda index: embed(server, labels[index % 7 :]))
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    assert moved(server, before)["misses_total"] == 20


def test_callers_at_once_share_one_encoding(server):
    labels = [f"asked for by everybody at once, {number}" for number in range(5)]
    before = cache_counts(server)
    together(32, lambda index: embed(server, labels))
    change = moved(server, before)
    assert change["misses_total"] == 5
    assert change["hits_total"] == 32 * 5 - 5


def test_the_bound_holds_under_many_distinct_labels(server):
    bound = int(parameters(server, "text_encoder")["cache_bytes"])
    before = cache_counts(server)
    for start in range(0, DISTINCT, 1000):
        embed(server, [f"distinct label {number}" for number in range(start, start + 1000)])
        assert cache_counts(server)["bytes"] <= bound
    change, after = moved(server, before), cache_counts(server)
    assert change["misses_total"] == DISTINCT
    assert change["evictions_total"] > 0
    assert before["entries"] + DISTINCT - change["evictions_total"] == after["entries"]
    embed(server, [f"distinct label {DISTINCT - 1}"])
    assert moved(server, before)["hits_total"] == 1


def test_requests_are_answered_right_while_the_cache_turns_over(server):
    labels = [f"turned over {number}" for number in range(3000)]
    first = embed(server, labels)["text_embeds"]
    again = embed(server, labels[::-1])["text_embeds"][:, ::-1]
    assert abs(first - again).max() < 1e-5
