"""The two calls of SambaStudio's CLIP endpoint, sent by curl."""

import json
import subprocess

import numpy as np
import pytest

from tests.helpers.programs import require
from tests.helpers.servers import ROOT

IMAGES = ROOT / "scripts" / "demo" / "images"


def curl(*arguments):
    done = subprocess.run(
        [require("curl", "curl"), "-sS", *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_image_file_is_embedded(gateway_with_keys, direct):
    path = IMAGES / "red_circle.jpg"
    reply = curl(
        "-X", "POST",
        "-H", f"key: {gateway_with_keys.key}",
        "--form", f"predict_file=@{path}",
        f"{gateway_with_keys.url}/api/predict/file/my-project/my-endpoint",
    )  # fmt: skip
    assert reply["status_code"] == 200
    np.testing.assert_allclose(reply["data"], direct.embed_images([path]), atol=1e-6)


def test_texts_are_embedded(gateway_with_keys, direct):
    for texts in (["a red circle"], ["a red circle", "the digit 7"]):
        reply = curl(
            "-X", "POST",
            "-H", "Content-Type: application/json",
            "-H", f"key: {gateway_with_keys.key}",
            "--data", json.dumps({"inputs": texts}),
            f"{gateway_with_keys.url}/api/predict/nlp/my-project/my-endpoint",
        )  # fmt: skip
        np.testing.assert_allclose(reply["data"], direct.embed_texts(texts), atol=1e-6)


def test_several_images_are_embedded(gateway_with_keys, direct):
    paths = [IMAGES / "red_circle.jpg", IMAGES / "digit_7.jpg"]
    files = [("predict_file", (path.name, path.read_bytes())) for path in paths]
    reply = gateway_with_keys.request("POST", "/api/predict/file/p/e", fields=[*files, ("params", "{}")])
    np.testing.assert_allclose(reply.json()["data"], direct.embed_images(paths), atol=1e-6)


@pytest.mark.parametrize(
    ("path", "options", "status", "param"),
    [
        ("file", {"fields": {"predict_file": ("a.jpg", b"no image")}}, 400, "predict_file[0]"),
        ("file", {"fields": {"other": "x"}}, 400, "predict_file"),
        ("file", {"json": {"inputs": ["a"]}}, 415, None),
        ("nlp", {"json": {"inputs": [" "]}}, 400, "inputs[0]"),
        ("nlp", {"json": {"inputs": []}}, 400, "inputs"),
        ("nlp", {"json": {}}, 400, "inputs"),
    ],
)
def test_invalid_request_names_its_field(gateway_with_keys, path, options, status, param):
    reply = gateway_with_keys.request("POST", f"/api/predict/{path}/p/e", **options)
    assert reply.status == status, reply.data
    assert reply.json()["error"]["param"] == param


def test_missing_key_is_rejected(gateway_with_keys):
    reply = gateway_with_keys.request("POST", "/api/predict/nlp/p/e", json={"inputs": ["a"]}, headers={})
    assert (reply.status, reply.json()["error"]["code"]) == (401, "invalid_api_key")
