"""OpenAI's Python package against the gateway."""

import asyncio
import base64

import numpy as np
import openai
import pytest

from tests.helpers.servers import ROOT
from tritonclip import TruncatedTextWarning
from tritonclip.gateway.payloads.encodings import encode

IMAGES = ROOT / "scripts" / "demo" / "images"
TEXTS = ["a red circle", "the digit 7", "größer"]


def data_uri(path):
    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"


@pytest.fixture(scope="module")
def client(gateway_with_keys):
    with openai.OpenAI(
        base_url=f"{gateway_with_keys.url}/v1", api_key=gateway_with_keys.key, max_retries=0
    ) as one:
        yield one


def vectors(reply):
    assert [one.index for one in reply.data] == list(range(len(reply.data)))
    return np.array([one.embedding for one in reply.data], dtype=np.float32)


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_texts_are_embedded(client, direct, form):
    reply = client.embeddings.create(model="clip", input=TEXTS, **form)
    if form.get("encoding_format") == "base64":  # if requested explicitly, the package does not decode it
        found = np.array([np.frombuffer(base64.b64decode(one.embedding), "<f4") for one in reply.data])
    else:
        found = vectors(reply)
    np.testing.assert_allclose(found, direct.embed_texts(TEXTS), atol=1e-7)
    assert reply.object == "list" and reply.model == direct.models()[0].checkpoint
    assert reply.usage.prompt_tokens == reply.usage.total_tokens > 12


def test_truncated_text_has_a_warning_and_all_its_tokens(client, direct):
    reply = client.embeddings.create(model="clip", input="word " * 90)
    with pytest.warns(TruncatedTextWarning):
        expected = direct.embed_texts("word " * 90)
    np.testing.assert_allclose(vectors(reply)[0], expected, atol=1e-6)
    assert reply.usage.prompt_tokens > 90
    assert reply.model_extra["warnings"][0].startswith("text 0 has ")


@pytest.mark.parametrize("several", [False, True])
def test_images_are_embedded(client, direct, several):
    paths = [IMAGES / "red_circle.jpg", IMAGES / "digit_7.jpg"] if several else [IMAGES / "red_circle.jpg"]
    given = [data_uri(path) for path in paths] if several else data_uri(paths[0])
    reply = client.embeddings.create(model="clip", input=given, extra_body={"modality": "image"})
    np.testing.assert_allclose(vectors(reply), direct.embed_images(paths), atol=1e-6)
    assert reply.usage.total_tokens == 0


def test_images_and_texts_are_told_apart_without_modality(gateway_with_keys, direct):
    image = IMAGES / "red_circle.jpg"
    uri, plain = data_uri(image), base64.b64encode(image.read_bytes()).decode()
    inputs = [
        uri,
        "a red circle",
        {"image": plain},
        {"type": "image_url", "image_url": {"url": uri}},
        {"image_url": uri},
        {"type": "text", "text": "a red circle"},
        "https://example.com/circle.jpg",
        [{"type": "text", "text": "a red circle"}],
        [{"type": "image_url", "image_url": {"url": uri}}],
        {"bytes": plain},
        {"url": uri},
        {"text": "a red circle"},
    ]
    reply = gateway_with_keys.post("/v1/embeddings", input=inputs)
    assert reply.status == 200, reply.data
    found = [one["embedding"] for one in reply.json()["data"]]
    image_vector, text_vector = direct.embed_images(image), direct.embed_texts("a red circle")
    for index in (0, 2, 3, 4, 8, 9, 10):
        np.testing.assert_allclose(found[index], image_vector, atol=1e-6)
    for index in (1, 5, 7, 11):
        np.testing.assert_allclose(found[index], text_vector, atol=1e-6)
    (warning,) = reply.json()["warnings"]
    assert warning.startswith("text 6 is a URL and was embedded as a text: 'https://example.com/circle.jpg'")
    single = gateway_with_keys.post("/v1/embeddings", input={"image": plain})
    np.testing.assert_allclose(single.json()["data"][0]["embedding"], image_vector, atol=1e-6)


@pytest.mark.parametrize("form", ["int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("member", ["encoding_format", "embedding_type", "encoding_type"])
def test_embeddings_have_the_requested_encoding(client, form, member):
    plain = client.embeddings.create(model="clip", input=TEXTS, encoding_format="float")
    reply = client.embeddings.create(model="clip", input=TEXTS, extra_body={member: form})
    expected = [encode(np.array(one.embedding, np.float32), form) for one in plain.data]
    assert [one.embedding for one in reply.data] == expected


@pytest.mark.parametrize("kind", ["image", "text", "plain text"])
def test_chat_message_is_embedded(gateway_with_keys, direct, kind):
    image = IMAGES / "red_circle.jpg"
    content = {
        "image": [{"type": "image_url", "image_url": {"url": data_uri(image)}}],
        "text": [{"type": "text", "text": "a red circle"}],
        "plain text": "a red circle",
    }[kind]
    messages = [{"role": "user", "content": content}]
    reply = gateway_with_keys.post("/v1/embeddings", messages=messages, encoding_format="float")
    expected = direct.embed_images(image) if kind == "image" else direct.embed_texts("a red circle")
    (found,) = reply.json()["data"]
    np.testing.assert_allclose(found["embedding"], expected, atol=1e-6)


TWO_PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
MESSAGE = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "input", "the field is required"),
        ({"input": ["a", TWO_PARTS]}, "input[1]", "text 1: it has 2 content parts"),
        ({"input": ["a", []]}, "input[1]", "text 1: it has 0 content parts"),
        ({"input": ["a", ["b"]]}, "input[1][0]", "dictionary"),
        ({"messages": [{"role": "user", "content": TWO_PARTS}]}, "messages[0]", "it has 2 content parts"),
        ({"messages": [MESSAGE, MESSAGE]}, "messages", "give one message"),
        ({"messages": [MESSAGE], "input": "a"}, "messages", "give one message"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages[0]", "it is blank"),
        ({"input": "a", "embedding_type": ["float"]}, "embedding_type", "'float', 'base64'"),
    ],
)
def test_malformed_input_is_rejected(gateway_with_keys, body, param, message):
    reply = gateway_with_keys.request("POST", "/v1/embeddings", json=body)
    assert (reply.status, reply.json()["error"]["param"]) == (400, param)
    assert message in reply.json()["error"]["message"]


@pytest.mark.parametrize("modality", [None, "text"])
def test_base64_of_an_image_is_not_embedded_as_a_text(gateway_with_keys, modality):
    plain = base64.b64encode((IMAGES / "red_circle.jpg").read_bytes()).decode()
    reply = gateway_with_keys.post("/v1/embeddings", input=["a", plain], modality=modality)
    error = reply.json()["error"]
    assert (reply.status, error["param"]) == (400, "input[1]")
    assert error["message"].startswith(
        'text 1: it is a JPEG file in base64, not a text; send it as {"image":'
    )


def test_error_in_mixed_inputs_names_the_index_of_the_request(gateway_with_keys):
    reply = gateway_with_keys.post("/v1/embeddings", input=["a", {"text": "a", "image": "b"}])
    assert (reply.status, reply.json()["error"]["param"]) == (400, "input[1]")
    reply = gateway_with_keys.post("/v1/embeddings", input=["a", "b", {"image": "AAAA"}])
    assert (reply.status, reply.json()["error"]["param"]) == (400, "input[2]")
    reply = gateway_with_keys.post("/v1/embeddings", input=[data_uri(IMAGES / "red_circle.jpg"), " "])
    assert (reply.status, reply.json()["error"]["param"]) == (400, "input[1]")


def test_many_vectors_are_streamed(gateway_with_keys, direct):
    texts = [f"text {number}" for number in range(120)]
    reply = gateway_with_keys.post("/v1/embeddings", input=texts, modality=None, dimensions=None)
    assert "content-length" not in reply.headers
    found = [one["embedding"] for one in reply.json()["data"]]
    np.testing.assert_allclose(found, direct.embed_texts(texts), atol=1e-6)


def test_async_package_embeds_concurrently(gateway_with_keys, direct):
    async def ask():
        async with openai.AsyncOpenAI(
            base_url=f"{gateway_with_keys.url}/v1", api_key=gateway_with_keys.key
        ) as one:
            return await asyncio.gather(*(one.embeddings.create(model="clip", input=text) for text in TEXTS))

    replies = asyncio.run(ask())
    found = np.concatenate([vectors(reply) for reply in replies])
    np.testing.assert_allclose(found, direct.embed_texts(TEXTS), atol=1e-6)


def test_served_model_is_listed_and_found_by_name(client, direct):
    (served,) = client.models.list().data
    info = direct.models()[0]
    assert (served.id, served.model_extra["sha256"]) == (info.checkpoint, info.sha256)
    assert served.model_extra["identity"] == info.identity
    assert len(info.identity) == 64
    assert served.model_extra["identity"] == info.identity and len(info.identity) == 64
    for name in (info.checkpoint, info.checkpoint.rpartition("/")[2], "clip"):
        assert client.models.retrieve(name).id == info.checkpoint
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-5")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("arguments", "param", "message"),
    [
        ({"input": []}, "input", "the list is empty"),
        ({"input": ["a", " "]}, "input[1]", "it is blank"),
        ({"input": [[1, 2]]}, "input[0]", r"OpenAIEmbeddings\(check_embedding_ctx_length=False\)"),
        ({"input": ["a", [1, 2]]}, "input[1]", "text 1: it is an array of tokens"),
        ({"input": [1, 2]}, "input[0]", "--token-arrays cl100k_base"),
        ({"input": "a", "dimensions": 64}, "dimensions", "cannot shorten its embeddings"),
        ({"input": "a", "encoding_format": "int4"}, "encoding_format", "'float', 'base64', 'int8', 'uint8'"),
        ({"input": "a", "extra_body": {"modality": "audio"}}, "modality", "'text' or 'image'"),
        ({"input": "cat.jpg", "extra_body": {"modality": "image"}}, "input[0]", "not valid base64"),
        ({"input": "AAAA", "extra_body": {"modality": "image"}}, "input[0]", "not an image"),
        ({"input": ["a"] * 10001}, "input", "texts: 10001 given, at most 10000"),
    ],
)
def test_invalid_request_names_its_field(client, arguments, param, message):
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.embeddings.create(model="clip", **arguments)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_unknown_model_and_wrong_key_are_rejected(client, gateway_with_keys):
    with pytest.raises(openai.NotFoundError, match="the model 'text-embedding-3-small' does not exist"):
        client.embeddings.create(model="text-embedding-3-small", input="a")
    wrong = openai.OpenAI(base_url=f"{gateway_with_keys.url}/v1", api_key="wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError, match="the API key is not valid") as caught:
        wrong.embeddings.create(model="clip", input="a")
    assert caught.value.code == "invalid_api_key"


def test_model_dimension_and_unknown_members_are_accepted(gateway_with_keys, direct):
    size = len(direct.embed_texts("a"))
    reply = gateway_with_keys.post("/v1/embeddings", input="a", dimensions=size, user="someone", more=1)
    assert reply.status == 200
    assert len(reply.json()["data"][0]["embedding"]) == size
