"""Weaviate's module multi2vec-clip: its container's smoke test, and requests as its client sends them."""

import base64
import json

import numpy as np
import pytest

from tests.helpers.gateway import KEY_LINE, run_gateway
from tests.helpers.servers import ROOT

IMAGES = ROOT / "scripts" / "demo" / "images"
PATHS = [IMAGES / "red_circle.jpg", IMAGES / "digit_7.jpg"]


def encoded(path):
    return base64.b64encode(path.read_bytes()).decode()


def dumped(**members):
    return json.dumps(members).encode()


@pytest.fixture(scope="module")
def container(server):
    """Start a gateway that lets only Weaviate in without a key."""
    environ = {"TRITONCLIP_GATEWAY_KEYS": KEY_LINE}
    with run_gateway(server.grpc_url, "--open-endpoints", "weaviate", environ=environ) as gateway:
        yield gateway


def ask(gateway, method, path, **options):
    """Send a request as Weaviate does: without a key and without a content type."""
    return gateway.request(method, path, headers={}, **options)


@pytest.mark.parametrize("path", ["/.well-known/ready", "/.well-known/live"])
def test_state_has_status_204(container, path):
    reply = ask(container, "GET", path)
    assert (reply.status, reply.data) == (204, b"")


def test_meta_is_an_object(container, direct):
    reply = ask(container, "GET", "/meta")
    assert reply.status == 200
    assert reply.json()["model"] == direct.models()[0].checkpoint


@pytest.mark.parametrize(
    ("texts", "paths"),
    [
        (["This is plane"], PATHS[:1]),
        (["This is plane", "Boeing 737", "Blue plane"], PATHS),
        (["a red circle"], None),
        (None, PATHS[:1]),
        ([], PATHS),
    ],
)
def test_texts_and_images_are_embedded(container, direct, texts, paths):
    images = paths and [encoded(path) for path in paths]
    reply = ask(container, "POST", "/vectorize", body=dumped(texts=texts, images=images))
    assert reply.status == 200, reply.data
    for name, wanted in (
        ("textVectors", direct.embed_texts(texts) if texts else []),
        ("imageVectors", direct.embed_images(paths) if paths else []),
    ):
        assert len(reply.json()[name]) == len(wanted)
        if len(wanted):
            np.testing.assert_allclose(reply.json()[name], wanted, atol=1e-6)


def test_large_answer_is_complete(container):
    texts = [f"plane {number}" for number in range(50)]
    reply = ask(container, "POST", "/vectorize", body=dumped(texts=texts, images=[encoded(PATHS[0])]))
    assert [len(reply.json()[name]) for name in ("textVectors", "imageVectors")] == [50, 1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "texts, images: none given"),
        ({"texts": None, "images": []}, "texts, images: none given"),
        ({"texts": [" "]}, "text 0: "),
        ({"images": ["bm8gaW1hZ2U="]}, "image 0 is not an image"),
        ({"images": "a"}, "images: "),
    ],
)
def test_error_is_a_text(container, body, message):
    reply = ask(container, "POST", "/vectorize", body=dumped(**body))
    assert reply.status == 400
    assert message in reply.json()["error"]


def test_unready_server_is_status_503():
    with run_gateway("localhost:1") as gateway:
        reply = ask(gateway, "GET", "/.well-known/ready")
        assert (reply.status, "cannot be reached" in reply.json()["error"]) == (503, True)
        assert ask(gateway, "GET", "/.well-known/live").status == 204


def test_routes_need_a_key_unless_they_are_open(container, gateway_with_keys):
    routes = [("GET", f"/{path}") for path in (".well-known/live", ".well-known/ready", "meta")]
    for method, path in (*routes, ("POST", "/vectorize")):
        reply = ask(gateway_with_keys, method, path)
        assert (reply.status, "is missing" in reply.json()["error"]) == (401, True), path
    assert ask(container, "GET", "/v1/models").status == 401
