"""Cohere's Python package against the gateway."""

import base64

import cohere
import httpx
import numpy as np
import pytest
from cohere.errors import BadRequestError, NotFoundError, UnauthorizedError

from tests.helpers.servers import ROOT

IMAGE = ROOT / "scripts" / "demo" / "images" / "red_circle.jpg"
TEXTS = ["a red circle", "größer"]
LONG = "a red circle " * 100
URI = f"data:image/jpeg;base64,{base64.b64encode(IMAGE.read_bytes()).decode()}"


@pytest.fixture(scope="module")
def client(gateway_with_keys):
    with httpx.Client() as http:
        yield cohere.ClientV2(gateway_with_keys.key, base_url=gateway_with_keys.url, httpx_client=http)


@pytest.fixture(scope="module")
def first(gateway_with_keys):
    with httpx.Client() as http:
        yield cohere.Client(gateway_with_keys.key, base_url=gateway_with_keys.url, httpx_client=http)


def test_texts_are_embedded(client, direct):
    reply = client.embed(model="clip", input_type="search_document", texts=TEXTS, embedding_types=["float"])
    np.testing.assert_allclose(reply.embeddings.float_, direct.embed_texts(TEXTS), atol=1e-6)
    assert reply.texts == TEXTS
    assert reply.meta.billed_units.input_tokens == 14
    assert reply.meta.warnings is None


def test_images_are_embedded(client, direct):
    reply = client.embed(model="clip", input_type="image", images=[URI])
    np.testing.assert_allclose(reply.embeddings.float_, direct.embed_images([str(IMAGE)]), atol=1e-6)
    assert reply.meta.billed_units.images == 1


def test_inputs_mix_texts_and_images(client, direct):
    contents = [{"type": "text", "text": "a red circle"}, {"type": "image_url", "image_url": {"url": URI}}]
    inputs = [{"content": [content]} for content in contents]
    reply = client.embed(model="clip", input_type="search_query", inputs=inputs, embedding_types=["float"])
    expected = [direct.embed_texts(["a red circle"])[0], direct.embed_images([str(IMAGE)])[0]]
    np.testing.assert_allclose(reply.embeddings.float_, expected, atol=1e-6)


def test_embeddings_are_returned_in_all_types(client, direct):
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    found = client.embed(model="clip", input_type="clustering", texts=TEXTS, embedding_types=types).embeddings
    expected = direct.embed_texts(TEXTS)
    scaled = expected / np.abs(expected).max(axis=1, keepdims=True) * 127
    bits = np.packbits(expected > 0, axis=1)
    np.testing.assert_allclose(found.int8, scaled, atol=0.51)
    np.testing.assert_array_equal(np.array(found.uint8) - 128, found.int8)
    assert (np.unpackbits(np.array(found.ubinary, np.uint8)) == np.unpackbits(bits)).mean() > 0.99
    np.testing.assert_array_equal(np.array(found.binary) + 128, found.ubinary)
    decoded = [np.frombuffer(base64.b64decode(each), "<f4") for each in found.base64]
    np.testing.assert_allclose(decoded, found.float_, atol=0)


def test_many_embeddings_are_streamed(gateway_with_keys, direct):
    texts = [f"{number} circles" for number in range(30)]
    body = {"texts": texts, "embedding_types": ["float", "int8"]}
    reply = gateway_with_keys.request("POST", "/v2/embed", json=body)
    assert "content-length" not in reply.headers
    embeddings = reply.json()["embeddings"]
    assert list(embeddings) == ["float", "int8"]
    np.testing.assert_allclose(embeddings["float"], direct.embed_texts(texts), atol=1e-6)
    assert np.shape(embeddings["int8"]) == (30, 512)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the client calls pydantic's version 1
def test_version_1_returns_numbers_or_types(first, direct):
    texts = [f"{number} circles" for number in range(100)]  # the client sends 96 in a request
    reply = first.embed(texts=texts, model="clip", input_type="search_document")
    assert reply.response_type == "embeddings_floats"
    np.testing.assert_allclose(reply.embeddings, direct.embed_texts(texts), atol=1e-6)
    types = first.embed(texts=TEXTS, model="clip", embedding_types=["int8", "float"])
    assert types.response_type == "embeddings_by_type"
    np.testing.assert_allclose(types.embeddings.float_, direct.embed_texts(TEXTS), atol=1e-6)
    image = first.embed(images=[URI], model="clip", input_type="image")
    np.testing.assert_allclose(image.embeddings, direct.embed_images([str(IMAGE)]), atol=1e-6)


def test_truncation_is_a_warning_or_an_error(client):
    reply = client.embed(model="clip", input_type="search_query", texts=["a", LONG])
    assert "text 1 has 302 tokens and was cut at 77" in reply.meta.warnings[0]
    for truncate in ("NONE", "START"):
        with pytest.raises(BadRequestError) as raised:
            client.embed(model="clip", input_type="search_query", texts=["a", LONG], truncate=truncate)
        assert "texts: text 1 has 302 tokens" in raised.value.body["message"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give exactly one of texts, images and inputs"),
        ({"texts": ["a"], "images": [URI]}, "give exactly one of texts, images and inputs"),
        ({"texts": ["a", " "]}, "text 1"),
        ({"images": ["data:image/png;base64,AAAA"]}, "image 0"),
        ({"texts": ["a"], "output_dimension": 256}, "output_dimension: this model has 512"),
        ({"texts": ["a"], "max_tokens": 10}, "max_tokens: this model reads 77 tokens"),
        ({"texts": ["a"], "embedding_types": ["int4"]}, "embedding_types[0]: "),
        (
            {"inputs": [{"content": [{"type": "text", "text": "a"}] * 2}]},
            "text 0: it has 2 content parts, but an embedding is that of one text or one image",
        ),
    ],
)
def test_invalid_request_is_reported(client, options, message):
    with pytest.raises(BadRequestError) as raised:
        client.embed(model="clip", input_type="search_query", **options)
    assert message in raised.value.body["message"]
    assert raised.value.body["id"] == raised.value.headers["x-request-id"]


def test_unknown_model_and_wrong_key_are_reported(client, gateway_with_keys):
    with pytest.raises(NotFoundError) as raised:
        client.embed(model="embed-v4.0", input_type="search_query", texts=["a"])
    assert "'embed-v4.0' does not exist; use" in raised.value.body["message"]
    with httpx.Client() as http, pytest.raises(UnauthorizedError):
        other = cohere.ClientV2("wrong", base_url=gateway_with_keys.url, httpx_client=http)
        other.embed(model="clip", input_type="search_query", texts=["a"])
