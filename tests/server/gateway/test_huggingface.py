"""Hugging Face's inference clients, in Python and JavaScript, against the gateway."""

import asyncio
import base64
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.helpers.programs import require
from tests.helpers.servers import ROOT

IMAGE = ROOT / "scripts" / "demo" / "images" / "red_circle.jpg"
LABELS = ["the digit 7", "a red circle", "größer"]
TEMPLATE = "{} on a white page"


@pytest.fixture(scope="module")
def client(gateway_with_keys):
    return InferenceClient(gateway_with_keys.url, token=gateway_with_keys.key)


def pairs(predictions):
    return [(each["label"], pytest.approx(each["score"], abs=1e-5)) for each in predictions]


@pytest.mark.parametrize("image", [IMAGE.read_bytes(), IMAGE, str(IMAGE)], ids=["bytes", "path", "name"])
def test_labels_are_ranked(client, direct, image):
    expected = pairs(direct.classify(str(IMAGE), LABELS))
    assert pairs(client.zero_shot_image_classification(image, candidate_labels=LABELS)) == expected


def test_hypothesis_template_is_used(client, direct):
    expected = pairs(direct.classify(str(IMAGE), LABELS, hypothesis_template=TEMPLATE))
    assert expected != pairs(direct.classify(str(IMAGE), LABELS))
    found = client.zero_shot_image_classification(
        IMAGE, candidate_labels=LABELS, hypothesis_template=TEMPLATE
    )
    assert pairs(found) == expected


def test_model_is_named_by_the_path(gateway_with_keys, direct):
    url, key = gateway_with_keys.url, gateway_with_keys.key
    named = InferenceClient(f"{url}/models/{direct.models()[0].checkpoint}", token=key)
    found = named.zero_shot_image_classification(IMAGE, candidate_labels=LABELS)
    assert pairs(found) == pairs(direct.classify(str(IMAGE), LABELS))
    other = InferenceClient(f"{url}/models/google/siglip-base", token=key)
    with pytest.raises(HfHubHTTPError, match="the model 'google/siglip-base' does not exist; use"):
        other.feature_extraction("a red circle")


def test_texts_are_embedded(client, direct):
    found = client.feature_extraction(LABELS, normalize=True, truncate=True)
    np.testing.assert_allclose(found, direct.embed_texts(LABELS), atol=1e-6)
    one = client.feature_extraction("a red circle")
    np.testing.assert_allclose(one, direct.embed_texts(["a red circle"]), atol=1e-6)


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # of httpx, about the client's own call
def test_async_client_gets_the_same_answers(gateway_with_keys, direct):
    async def call():
        async with AsyncInferenceClient(gateway_with_keys.url, token=gateway_with_keys.key) as client:
            labels = await client.zero_shot_image_classification(IMAGE, candidate_labels=LABELS)
            return labels, await client.feature_extraction(LABELS)

    labels, vectors = asyncio.run(call())
    assert pairs(labels) == pairs(direct.classify(str(IMAGE), LABELS))
    np.testing.assert_allclose(vectors, direct.embed_texts(LABELS), atol=1e-6)


def test_images_are_embedded_without_labels(gateway_with_keys, direct):
    image = {"image": base64.b64encode(IMAGE.read_bytes()).decode()}
    reply = gateway_with_keys.request("POST", "/", json={"inputs": [image, "a red circle"]})
    expected = [direct.embed_images([str(IMAGE)])[0], direct.embed_texts(["a red circle"])[0]]
    np.testing.assert_allclose(reply.json(), expected, atol=1e-6)


def test_many_texts_are_streamed(gateway_with_keys, direct):
    texts = [f"{number} circles" for number in range(80)]
    reply = gateway_with_keys.request("POST", "/", json={"inputs": texts})
    assert "content-length" not in reply.headers
    np.testing.assert_allclose(reply.json(), direct.embed_texts(texts), atol=1e-6)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": "no image"}, "image 0"),
        ({"inputs": ["", ""]}, "inputs: give one image, not a list"),
        ({"inputs": {}}, "inputs: "),
        ({"inputs": "", "parameters": {"candidate_labels": []}}, "labels: the list is empty"),
        ({"inputs": "", "parameters": {"candidate_labels": ["a"], "hypothesis_template": "x"}}, "template"),
    ],
)
def test_error_is_a_text_that_names_the_problem(gateway_with_keys, body, message):
    body = {"parameters": {"candidate_labels": LABELS}, **body}
    reply = gateway_with_keys.request("POST", "/", json=body)
    assert reply.status == 400
    assert message in reply.json()["error"]
    assert reply.json()["error_type"] == "Validation"


def test_client_reports_the_message_and_the_request_id(client):
    with pytest.raises(HfHubHTTPError, match="(?s)Request ID: .*image 0 is not an image") as raised:
        client.zero_shot_image_classification(b"no image", candidate_labels=LABELS)
    assert raised.value.response.headers["x-request-id"]


def test_missing_key_is_reported(gateway_with_keys):
    with pytest.raises(HfHubHTTPError, match="the API key is not valid"):
        InferenceClient(gateway_with_keys.url, token="wrong").feature_extraction("a")


def test_page_is_still_served(gateway_with_keys):
    assert b"<!doctype html>" in gateway_with_keys.request("GET", "/").data.lower()


def test_images_and_labels_are_counted(gateway_with_keys, client):
    client.zero_shot_image_classification(IMAGE, candidate_labels=LABELS)
    gateway_with_keys.logged(path="/", status=200, images=1)


@pytest.mark.slow
def test_javascript_client(gateway_with_keys, node_modules, direct):
    node = require("node", "nodejs npm")
    calls = Path(__file__).parent / "huggingface_calls.mjs"
    command = [node, calls, node_modules, gateway_with_keys.url, gateway_with_keys.key, IMAGE, *LABELS]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = pairs(direct.classify(str(IMAGE), LABELS))
    assert pairs(found["labels"]) == pairs(found["nested"]) == expected
    np.testing.assert_allclose(found["vectors"], direct.embed_texts(LABELS), atol=1e-6)
    assert "texts: the list is empty" in found["error"]
