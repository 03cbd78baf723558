"""Immich's machine learning API: requests as its server sends them."""

import json

import numpy as np
import pytest

from tests.helpers.gateway import KEY_LINE, run_gateway
from tests.helpers.servers import ROOT

IMAGES = ROOT / "scripts" / "demo" / "images"
PATH = IMAGES / "red_circle.jpg"
MODEL = "ViT-B-32__openai"


@pytest.fixture(scope="module")
def container(server):
    """Start a gateway that knows the model by Immich's name and lets only Immich in without a key."""
    options = ("--open-endpoints", "immich", "--model-alias", MODEL)
    environ = {"TRITONCLIP_GATEWAY_KEYS": KEY_LINE}
    with run_gateway(server.grpc_url, *options, environ=environ) as gateway:
        yield gateway


def predict(gateway, entries, **fields):
    entries = entries if isinstance(entries, str) else json.dumps(entries)
    return gateway.request("POST", "/predict", headers={}, fields={"entries": entries, **fields})


def image():
    return "blob", PATH.read_bytes(), "application/octet-stream"


def test_ping_is_answered(container):
    reply = container.request("GET", "/ping", headers={})
    assert (reply.status, reply.data) == (200, b"pong")


def test_image_is_embedded_and_its_size_is_given(container, direct):
    reply = predict(container, {"clip": {"visual": {"modelName": MODEL}}}, image=image())
    assert reply.status == 200, reply.data
    np.testing.assert_allclose(json.loads(reply.json()["clip"]), direct.embed_images([PATH])[0], atol=1e-6)
    assert (reply.json()["imageHeight"], reply.json()["imageWidth"]) == (480, 640)


def test_text_is_embedded(container, direct):
    options = {"language": "en"}
    reply = predict(container, {"clip": {"textual": {"modelName": MODEL, "options": options}}}, text="größer")
    assert reply.status == 200, reply.data
    assert reply.json().keys() == {"clip"}
    np.testing.assert_allclose(json.loads(reply.json()["clip"]), direct.embed_texts(["größer"])[0], atol=1e-6)


FACES = {"facial-recognition": {"detection": {"modelName": "buffalo_l"}}}


@pytest.mark.parametrize(
    ("entries", "fields", "status", "message"),
    [
        (
            FACES,
            {"image": image()},
            400,
            "entries: 'facial-recognition' is not served here, only 'clip'; switch",
        ),
        ({"clip": {"visual": {"modelName": "other"}}}, {"image": image()}, 404, "'other' does not exist"),
        ({"clip": {"visual": {"modelName": MODEL}}}, {"text": "a"}, 400, "image: expected one file"),
        ({"clip": {"textual": {"modelName": MODEL}}}, {"image": image()}, 400, "text: none given"),
        ({"clip": {"textual": {"modelName": MODEL}}}, {"text": " "}, 400, "text 0: "),
        ({"clip": {"visual": {"modelName": MODEL}}}, {"image": ("a", b"x")}, 400, "image 0 is not an image"),
        ({"clip": {}}, {"text": "a"}, 400, "entries: expected"),
        ([], {"text": "a"}, 400, "entries: expected"),
        ("[" * 10_000, {"text": "a"}, 400, "entries: expected"),
    ],
)
def test_error_has_a_detail(container, entries, fields, status, message):
    reply = predict(container, entries, **fields)
    assert reply.status == status
    assert message in reply.json()["detail"]


def test_unready_server_is_status_503():
    with run_gateway("localhost:1") as gateway:
        reply = gateway.request("GET", "/ping")
        assert (reply.status, "cannot be reached" in reply.json()["detail"]) == (503, True)


def test_routes_need_a_key_unless_they_are_open(container, gateway_with_keys):
    for method, path in (("GET", "/ping"), ("POST", "/predict")):
        reply = gateway_with_keys.request(method, path, headers={})
        assert (reply.status, "is missing" in reply.json()["detail"]) == (401, True)
    assert container.request("GET", "/v1/models", headers={}).status == 401
