"""Voyage's API for images and texts: requests as its Python package sends them."""

import base64
import json

import numpy as np
import pytest

from tests.helpers.servers import ROOT

IMAGE = ROOT / "scripts" / "demo" / "images" / "red_circle.jpg"
URI = f"data:image/jpeg;base64,{base64.b64encode(IMAGE.read_bytes()).decode()}"
PATH = "/v1/multimodalembeddings"


def text(value):
    return {"content": [{"type": "text", "text": value}]}


def test_texts_and_images_are_embedded_without_a_content_type(gateway_with_keys, direct):
    inputs = [
        text("a red circle"),
        {"content": [{"type": "image_base64", "image_base64": URI}]},
        {"content": [{"type": "image_url", "image_url": URI}]},
    ]
    body = {
        "inputs": inputs,
        "model": "clip",
        "input_type": None,
        "truncation": True,
        "output_dtype": None,
        "output_dimension": None,
        "encoding_format": "base64",
    }
    headers = {"Authorization": f"Bearer {gateway_with_keys.key}"}
    reply = gateway_with_keys.request("POST", PATH, body=json.dumps(body).encode(), headers=headers)
    assert reply.status == 200, reply.data
    found = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in reply.json()["data"]]
    image = direct.embed_images([str(IMAGE)])[0]
    np.testing.assert_allclose(found, [direct.embed_texts(["a red circle"])[0], image, image], atol=1e-6)
    assert [each["index"] for each in reply.json()["data"]] == [0, 1, 2]
    usage = {"text_tokens": 5, "image_pixels": 0, "video_pixels": 0, "total_tokens": 5}
    assert reply.json()["usage"] == usage


@pytest.mark.parametrize(
    ("dtype", "size", "low"), [("int8", 512, -127), ("ubinary", 64, 0), ("float", 512, -1)]
)
def test_embeddings_have_the_type_that_is_asked_for(open_gateway, dtype, size, low):
    reply = open_gateway.request("POST", PATH, json={"inputs": [text("a")], "output_dtype": dtype})
    vector = reply.json()["data"][0]["embedding"]
    assert len(vector) == size
    assert min(vector) >= low


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "inputs: Field required"),
        ({"inputs": []}, "the list is empty"),
        ({"inputs": [text("a"), text(" ")]}, "text 1"),
        ({"inputs": [{"content": [{"type": "text"}]}]}, "give the member text, which type names"),
        ({"inputs": [{"content": [{"type": "video_url", "video_url": "x"}]}]}, "'image_base64'"),
        ({"inputs": [{"content": text("a")["content"] * 2}]}, "text 0: it has 2 content parts"),
        ({"inputs": [{"content": []}]}, "text 0: it has 0 content parts"),
        ({"inputs": [text("a " * 100)], "truncation": False}, "inputs: text 0 has 102 tokens"),
        ({"inputs": [text("a")], "output_dimension": 256}, "output_dimension: this model has 512"),
    ],
)
def test_error_is_a_detail(open_gateway, body, message):
    reply = open_gateway.request("POST", PATH, json=body)
    assert reply.status == 400
    assert reply.json().keys() == {"detail"}
    assert message in reply.json()["detail"]


def test_unknown_model_is_reported(open_gateway):
    reply = open_gateway.request("POST", PATH, json={"inputs": [text("a")], "model": "voyage-multimodal-3"})
    assert reply.status == 404
    assert "'voyage-multimodal-3' does not exist; use" in reply.json()["detail"]
