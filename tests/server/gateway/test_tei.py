"""The API of Text Embeddings Inference: requests as its clients send them, and the clients themselves."""

import numpy as np
import pytest
from chromadb.utils.embedding_functions import HuggingFaceEmbeddingServer

LONG = "a red circle " * 100


def test_texts_are_embedded(open_gateway, direct):
    for inputs in ("a red circle", ["a red circle", "größer"]):
        body = {"inputs": inputs, "normalize": False, "truncate": True, "truncation_direction": "Right"}
        reply = open_gateway.request("POST", "/embed", json=body)
        assert reply.status == 200, reply.data
        texts = [inputs] if isinstance(inputs, str) else inputs
        np.testing.assert_allclose(reply.json(), direct.embed_texts(texts), atol=1e-6)


def test_long_text_is_truncated_unless_that_is_switched_off(open_gateway):
    assert open_gateway.request("POST", "/embed", json={"inputs": ["a", LONG]}).status == 200
    reply = open_gateway.request("POST", "/embed", json={"inputs": ["a", LONG], "truncate": False})
    assert reply.status == 400
    assert "inputs: text 1 has 302 tokens and was cut at 77" in reply.json()["error"]
    assert reply.json()["error"].endswith("shorten it, or leave out truncate")
    short = open_gateway.request("POST", "/embed", json={"inputs": ["a", "b"], "truncate": False})
    assert short.status == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "inputs: Field required"),
        ({"inputs": []}, "texts: the list is empty"),
        ({"inputs": [" "]}, "text 0: "),
        ({"inputs": [1, 2]}, "inputs[0]: Input should be a valid string"),
        ({"inputs": "a", "dimensions": 7}, "dimensions: this model has 512"),
        ({"inputs": "a", "prompt_name": "query"}, "prompt_name: CLIP has no prompts"),
        ({"inputs": "a", "truncation_direction": "Left"}, "truncation_direction: "),
    ],
)
def test_error_is_a_text_with_a_type(open_gateway, body, message):
    reply = open_gateway.request("POST", "/embed", json=body)
    assert reply.status == 400
    assert message in reply.json()["error"]
    assert reply.json().keys() == {"error", "error_type"}
    assert reply.json()["error_type"] == "Validation"


def test_embeddings_of_tokens_are_refused(open_gateway):
    reply = open_gateway.request("POST", "/embed_all", json={"inputs": "a"})
    assert reply.status == 400
    assert "call /embed" in reply.json()["error"]


def test_info_describes_the_model(open_gateway, direct):
    reply = open_gateway.request("GET", "/info").json()
    assert reply["model_id"] == direct.models()[0].checkpoint
    assert reply["model_type"] == {"embedding": {"pooling": "last_token"}}
    assert (reply["max_input_length"], reply["max_client_batch_size"]) == (77, 10_000)


def test_info_requires_a_key(gateway_with_keys):
    reply = gateway_with_keys.request("GET", "/info", headers={})
    assert reply.status == 401
    assert "the API key is missing" in reply.json()["error"]


def test_chroma_embeds_texts_as_with_tei(gateway_with_keys, direct, monkeypatch):
    monkeypatch.setenv("KEY_OF_GATEWAY", gateway_with_keys.key)
    function = HuggingFaceEmbeddingServer(f"{gateway_with_keys.url}/embed", api_key_env_var="KEY_OF_GATEWAY")
    texts = ["a red circle", "größer"]
    try:
        np.testing.assert_allclose(function(texts), direct.embed_texts(texts), atol=1e-6)
    finally:
        function._session.close()
