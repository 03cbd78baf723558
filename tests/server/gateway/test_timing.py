"""The header X-Timing of responses that needed Triton."""

import base64

import pytest

from tests.helpers.pictures import encode, noise

JPEG = base64.b64encode(encode(noise(99, 88), "JPEG")).decode()
PARTS = ["total", "queue", "text", "decode", "encode", "score", "wire", "gateway"]
REQUESTS = {
    "/v1/classify": {"images": [JPEG], "labels": ["a red circle", "the digit 7"]},
    "/v1/similarity": {"images": [JPEG] * 3, "texts": ["a red circle"]},
    "/v1/embeddings": {"input": ["a red circle", {"image": JPEG}]},
}


@pytest.mark.parametrize("path", REQUESTS)
def test_parts_of_a_request_add_up_to_its_total(open_gateway, path):
    reply = open_gateway.request("POST", path, json=REQUESTS[path])
    assert reply.status == 200
    parts = dict(part.split("=") for part in reply.headers["X-Timing"].split(", "))
    assert list(parts) == PARTS
    total, *others = map(float, parts.values())
    assert sum(others) == pytest.approx(total, abs=0.05)
    assert min(others) >= 0
    assert float(parts["decode"]) > 0


def test_response_without_an_inference_has_no_timing(open_gateway):
    assert "X-Timing" not in open_gateway.request("GET", "/healthz").headers
    assert "X-Timing" not in open_gateway.request("POST", "/v1/classify", json={"images": []}).headers
