"""Large text requests share the encoder with others, end at their deadline, and report the token limit."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.helpers.calls import bytes_tensor, infer, metric, settled_metric
from tests.helpers.waiting import wait_until

LARGE = 2000
"""Texts that keep the encoder busy for many turns."""


def texts(name, count):
    """Return texts of this name that no other test sends."""
    return bytes_tensor(
        [b"%s %d of a large request, %s" % (name, one, b"word " * 20) for one in range(count)]
    )


def embed(server, tensor, protocol="grpc", **parameters):
    return infer(server, protocol, "clip_text_embedding", parameters, text=tensor)


def executing(server):
    return metric(server, "tritonclip_requests_executing", model="text_encoder")


def test_other_requests_are_answered_while_a_large_one_is_encoded(server):
    embed(server, bytes_tensor([b"a cached label"]))
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(embed, server, texts(b"shared", LARGE))
        wait_until(lambda: executing(server) == 1 or large.done(), "the large request did not arrive")
        small = texts(b"small", 15)  # more than is encoded at once
        for tensor in (bytes_tensor([b"a cached label"]), small, bytes_tensor([b"a new label"])):
            answer = embed(server, tensor)
            assert answer["text_embeds"].shape == (*tensor.shape, 512)
        assert not large.done()
        found = large.result()
    alone = embed(server, texts(b"shared", 3))
    np.testing.assert_allclose(found["text_embeds"][:, :3], alone["text_embeds"], atol=1e-5)
    assert found["text_embeds"].shape == (1, LARGE, 512)
    assert (found["token_counts"][:, :3] == alone["token_counts"]).all()
    wait_until(lambda: executing(server) == 0, "requests stay counted as executing")


def test_large_request_ends_at_its_deadline(server):
    def rejections():
        name = "tritonclip_requests_refused_total"
        return settled_metric(server, name, model="text_encoder", reason="deadline")

    before = rejections()
    with pytest.raises(InferenceServerException, match=r"deadline (passed|cannot be met): ") as caught:
        embed(server, texts(b"late", LARGE), deadline_ms=300)
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    assert rejections() == before + 1
    wait_until(lambda: executing(server) == 0, "requests stay counted as executing")


def test_new_and_cached_texts_of_many_callers_are_all_answered(server):
    cached = bytes_tensor([b"one", b"two", b"three"])

    def call(number):
        new = bytes_tensor([b"number %d of call %d" % (one, number) for one in range(20)])
        return [embed(server, tensor)["text_embeds"].shape[1] for tensor in (new, cached)]

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(call, range(400))) == 400 * [[20, 3]]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_token_limit_comes_with_each_row(server, protocol):
    answer = embed(server, bytes_tensor([b"a", b"b"], [b"c", b"d"]), protocol)
    assert answer["token_limit"].tolist() == [[77], [77]]
