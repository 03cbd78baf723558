"""A server that requires a key for inference requests."""

import pytest

from tests.helpers.network import count_calls
from tritonclip import AccessDeniedError

KEY_HEADER = {"grpc": "triton-grpc-protocol-shop-key", "http": "shop-key"}


@pytest.fixture(scope="module")
def restricted(servers, demo_repository):
    """A server that requires a key for inference requests."""
    flags = {
        "grpc-restricted-protocol": "inference:shop-key=open sesame",
        "http-restricted-api": "inference:shop-key=open sesame",
    }
    with servers.run(demo_repository, "a key for inference requests", flags=flags) as running:
        yield running


def test_restricted_server_answers_with_the_key(make, protocol, restricted):
    url = restricted.grpc_url if protocol == "grpc" else restricted.http_url
    headers = {KEY_HEADER[protocol]: "open sesame"}
    assert make(url, headers=headers).embed_texts("a").shape == (512,)
    assert make(url).embed_texts("a", headers=headers).shape == (512,)


@pytest.mark.parametrize("key", [None, "wrong"])
def test_missing_or_wrong_key_is_rejected_without_a_retry(make, protocol, restricted, key):
    headers = {KEY_HEADER[protocol]: key} if key else {}
    with count_calls(restricted, protocol) as calls:
        client = make(calls.url, headers=headers)
        with pytest.raises(AccessDeniedError, match=r"restricted.*Check api_key and headers\.") as caught:
            client.embed_texts("a")
    assert len(calls.seen) == 1
    assert caught.value.model == "clip_text_embedding"
    assert caught.value.endpoint == f"{protocol}://{calls.url}"
    assert str(key) not in str(caught.value)
