"""Requests to `image_preprocess` itself whose callers cancel them."""

import pytest
import tritonclient.grpc as grpcclient
from PIL import Image

from tests.helpers.calls import bytes_tensor, metric
from tests.helpers.pictures import encode
from tests.helpers.waiting import settled, wait_until

pytestmark = pytest.mark.variant("overload")

COUNT = 64


def test_images_of_a_cancelled_request_are_not_decoded(server, gate):
    def rejected():
        return metric(
            server, "tritonclip_requests_refused_total", reason="deadline", model="image_preprocess"
        )

    def decoded():
        return metric(server, "tritonclip_images_total", model="image_preprocess")

    before, images_before = settled(lambda: (rejected(), decoded()))
    image = encode(Image.new("RGB", (4000, 3000), "red"), "JPEG")
    array = bytes_tensor([image] * COUNT)
    tensor = grpcclient.InferInput("image", array.shape, "BYTES")
    tensor.set_data_from_numpy(array)
    errors = []
    with grpcclient.InferenceServerClient(server.grpc_url) as client:
        with gate.closed("image_preprocess"):
            call = client.async_infer(
                "image_preprocess", [tensor], lambda result, error: errors.append(error)
            )
            gate.wait_until_it_holds("image_preprocess")
            call.cancel()
            wait_until(lambda: errors, "the call was not cancelled")
        wait_until(lambda: rejected() == before + 1, "the request was not rejected")
    assert decoded() == images_before
