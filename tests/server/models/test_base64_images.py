"""Images as texts in the JSON of Triton's HTTP API, base64 or data: URIs, compared with files as bytes."""

import base64
import json

import numpy as np
import pytest
import urllib3

from tests.helpers.calls import bytes_tensor, infer
from tests.helpers.pictures import encode, noise

FILES = {name: encode(noise(90, 60, seed=3), name) for name in ("JPEG", "PNG", "WEBP", "GIF")}


def post(server, *texts):
    image = {"name": "image", "datatype": "BYTES", "shape": [1, len(texts)], "data": [list(texts)]}
    url = f"http://{server.http_url}/v2/models/clip_image_embedding/infer"
    return urllib3.request("POST", url, body=json.dumps({"inputs": [image]}).encode())


def text_of(name):
    return base64.b64encode(FILES[name]).decode()


@pytest.fixture(scope="module")
def embeds(server):
    """Embed the files, sent by the binary extension."""
    return infer(server, "http", "clip_image_embedding", image=bytes_tensor(list(FILES.values())))[
        "image_embeds"
    ]


@pytest.mark.parametrize("start", ["", "data:image/any;base64,"])
def test_base64_in_json_has_the_embedding_of_the_file(server, embeds, start):
    reply = post(server, *(start + text_of(name) for name in FILES))
    assert reply.status == 200, reply.data
    found = next(output for output in reply.json()["outputs"] if output["name"] == "image_embeds")
    np.testing.assert_allclose(np.reshape(found["data"], embeds.shape), embeds, atol=1e-6)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_base64_as_bytes_has_the_embedding_of_the_file(server, embeds, protocol):
    """NVIDIA's Java client has no other way: its BYTES are strings, which it encodes in UTF-8."""
    mixed = [text_of("JPEG").encode(), FILES["PNG"], text_of("WEBP").encode(), FILES["GIF"]]
    found = infer(server, protocol, "clip_image_embedding", image=bytes_tensor(mixed))["image_embeds"]
    np.testing.assert_allclose(found, embeds, atol=1e-6)


def test_invalid_base64_is_named_with_its_index(server):
    reply = post(server, text_of("PNG"), text_of("JPEG")[:-3])
    assert reply.status == 400
    assert "image 1 begins like an image in base64, but is no valid base64" in reply.json()["error"]


def test_base64_of_a_damaged_file_is_an_error_of_its_image(server):
    reply = post(server, text_of("PNG"), base64.b64encode(FILES["PNG"][:60]).decode())
    assert (reply.status, "image 1 " in reply.json()["error"]) == (400, True)
