"""infinity's API: the requests of its end-to-end tests of vision models, at the same addresses.

Source: libs/infinity_emb/tests/end_to_end/test_torch_vision.py in michaelfeil/infinity. One of its tests is
left out: it expects an error for an image of 1 x 1 pixels, which is a valid image here.
"""

import base64
import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from tests.helpers.gateway import run_gateway
from tests.helpers.servers import ROOT

IMAGES = ROOT / "scripts" / "demo" / "images"
IMAGE = IMAGES / "red_circle.jpg"
MODEL = "default/not-specified"  # the default of infinity's client


class Files(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    """Address of a server of the demo's images."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=IMAGES)) as files:
        thread = threading.Thread(target=files.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{files.server_port}"
        files.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def infinity(server, address):
    """A gateway that fetches images from that server."""
    options = ("--allow-urls", "--url-network", "127.0.0.0/8", "--url-port", address.rpartition(":")[2])
    with run_gateway(server.grpc_url, *options) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def url(address):
    return f"{address}/{IMAGE.name}"


def uri(path=IMAGE):
    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"


def vectors(reply, count):
    assert reply.status == 200, reply.data
    body = reply.json()
    assert body["model"] and set(body["usage"]) == {"prompt_tokens", "total_tokens"}
    assert [one["object"] for one in body["data"]] == ["embedding"] * count
    return np.array([one["embedding"] for one in body["data"]])


def test_model_has_stats_and_capabilities(infinity, direct):
    (model,) = infinity.request("GET", "/models").json()["data"]
    assert model["id"] == direct.models()[0].checkpoint
    assert isinstance(model["stats"], dict) and "image_embed" in model["capabilities"]


def test_single_image_is_embedded(infinity, direct, url):
    found = vectors(infinity.post("/embeddings_image", model=MODEL, input=url), 1)
    np.testing.assert_allclose(found[0], direct.embed_images(IMAGE), atol=1e-6)


def test_single_text_is_embedded(infinity, direct):
    found = vectors(infinity.post("/embeddings", model=MODEL, input="a red circle"), 1)
    np.testing.assert_allclose(found[0], direct.embed_texts("a red circle"), atol=1e-6)


def test_data_uri_and_url_have_the_same_embedding(infinity, url):
    found = vectors(infinity.post("/embeddings_image", model=MODEL, input=[uri(), url]), 2)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


@pytest.mark.parametrize("route", ["/embeddings_image", "/embeddings", "/v1/embeddings"])
def test_image_is_closest_to_its_text(infinity, url, route):
    texts = vectors(infinity.post("/embeddings", model=MODEL, input=["a red circle", "a 7", "a tree"]), 3)
    (image,) = vectors(infinity.post(route, model=MODEL, input=[url], modality="image"), 1)
    assert np.argmax(texts @ image) == 0


@pytest.mark.parametrize("route", ["/embeddings_image", "/embeddings", "/v1/embeddings"])
@pytest.mark.parametrize("count", [1, 2])
def test_several_images_are_embedded(infinity, url, route, count):
    vectors(infinity.post(route, model=MODEL, input=[url] * count, modality="image"), count)


@pytest.mark.parametrize(
    ("route", "given", "status"),
    [
        ("/embeddings_image", "{address}/404.jpg", 400),
        ("/embeddings_image", ["{address}/404.jpg", "{address}/404.jpg"], 400),
        ("/embeddings_image", "htt://wrong.url/me.jpg", 422),
        ("/embeddings_image", ["htt://wrong.url/me.jpg", "htt://wrong.url/me.jpg"], 422),
        ("/embeddings_image", [], 422),
        ("/classify", ["test"], 400),
    ],
)
def test_input_that_is_no_image_is_rejected(infinity, address, route, given, status):
    named = (
        given.format(address=address)
        if isinstance(given, str)
        else [each.format(address=address) for each in given]
    )
    reply = infinity.post(route, model=MODEL, input=named)
    assert reply.status == status
    assert reply.json()["error"]["param"].startswith("input")


def test_media_type_is_checked_as_elsewhere(infinity):
    reply = infinity.request("POST", "/embeddings_image", body=b"{}", headers={"Content-Type": "text/plain"})
    assert reply.status == 415


def test_images_are_classified(infinity, direct, url):
    labels = ["a red circle", "the digit 7"]
    reply = infinity.post("/classify", model=MODEL, input=[url, uri()], candidate_labels=labels)
    assert reply.status == 200, reply.data
    body = reply.json()
    expected = direct.classify(str(IMAGE), labels)
    assert body["object"] == "classify" and body["usage"]["total_tokens"] > 0 and body["warnings"] == []
    for predictions in body["data"]:
        assert [one["label"] for one in predictions] == [one["label"] for one in expected]
        assert [one["score"] for one in predictions] == pytest.approx(
            [one["score"] for one in expected], abs=1e-4
        )


def test_raw_scores_are_the_logits(infinity, url):
    (scores,) = infinity.post("/classify", input=[url], candidate_labels=["a", "b"]).json()["data"]
    (logits,) = infinity.post("/classify", input=[url], candidate_labels=["a", "b"], raw_scores=True).json()[
        "data"
    ]
    by_label = {one["label"]: one["score"] for one in logits}
    odds = np.exp(by_label["a"] - by_label["b"])
    found = {one["label"]: one["score"] for one in scores}
    assert found["a"] / found["b"] == pytest.approx(odds, rel=1e-3)


def test_classification_without_labels_warns_about_the_default_ones(infinity, url):
    body = infinity.post("/classify", input=[url]).json()
    assert len(body["data"][0]) == 5
    assert body["warnings"][0].startswith("no labels were given; ranked the default labels")


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"candidate_labels": ["a", " "]}, "candidate_labels[1]", "it is blank"),
        ({"candidate_labels": []}, "candidate_labels", "the list is empty"),
        ({"candidate_labels": ["a"] * 10_001}, "candidate_labels", "10001 given, at most 10000"),
        ({"model": "bge"}, "model", "the model 'bge' does not exist"),
    ],
)
def test_invalid_classification_names_its_field(infinity, url, body, param, message):
    error = infinity.post("/classify", input=[url], **body).json()["error"]
    assert error["param"] == param and message in error["message"]
