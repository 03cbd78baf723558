"""Invalid requests to the server itself: each error names the index and the reason, over both protocols."""

import io

import numpy as np
import pytest
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.helpers.calls import bytes_tensor, infer
from tests.helpers.pictures import encode, noise
from tritonclip import Client

GOOD = encode(noise(64, 64), "PNG")
LABEL = bytes_tensor([b"cat"])
IMAGE = bytes_tensor([GOOD])


def bomb():
    """Return a PNG of 20,000 x 20,000 pixels in a few kilobytes."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


CASES = {
    "no images": ({"image": bytes_tensor([]), "labels": LABEL}, "no images"),
    "no labels": ({"image": IMAGE, "labels": bytes_tensor([])}, "no labels"),
    "empty label": ({"image": IMAGE, "labels": bytes_tensor([b"cat", b""])}, "label 1 is empty"),
    "blank label": ({"image": IMAGE, "labels": bytes_tensor([b"  "])}, "label 0 is empty"),
    "not UTF-8": (
        {"image": IMAGE, "labels": bytes_tensor([b"a\xff"])},
        "label 0 is not valid UTF-8 at byte 1",
    ),
    "long label": (
        {"image": IMAGE, "labels": bytes_tensor([b"x" * 5000])},
        "label 0 is too long: 5000 bytes",
    ),
    "many labels": ({"image": IMAGE, "labels": bytes_tensor([b"x"] * 10_001)}, "10001 in one request"),
    "empty image": ({"image": bytes_tensor([GOOD, b""]), "labels": LABEL}, "image 1 is empty"),
    "no image": ({"image": bytes_tensor([b"text"]), "labels": LABEL}, "image 0 is not an image"),
    "truncated": ({"image": bytes_tensor([GOOD, GOOD[:3000]]), "labels": LABEL}, "image 1 cannot be decoded"),
    "bomb": ({"image": bytes_tensor([bomb()]), "labels": LABEL}, "image 0 is too large"),
    "many images": ({"image": bytes_tensor([GOOD[:9]] * 257), "labels": LABEL}, "257 in one request"),
    "large request": (
        {"image": bytes_tensor([bytes(1 << 25)] * 3), "labels": LABEL},
        "bytes of images, the limit",
    ),
    "second row": (
        {"image": bytes_tensor([GOOD, GOOD], [GOOD, b"x"]), "labels": bytes_tensor([b"cat"], [b"dog"])},
        "image 1 of row 1",
    ),
    "wrong dtype": ({"image": np.ones((1, 2), np.float32), "labels": LABEL}, "expects 'BYTES'"),
    "wrong rank": ({"image": IMAGE[0], "labels": LABEL}, "unexpected shape for input 'image'"),
    "rows differ": ({"image": IMAGE, "labels": bytes_tensor([b"a"], [b"b"])}, "batch size"),
    "input missing": ({"image": IMAGE}, "expected 2 inputs but got 1"),
}
STATUS = {"grpc": "StatusCode.INVALID_ARGUMENT", "http": "400"}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("name", CASES)
def test_invalid_request_is_rejected_with_the_reason(server, protocol, name):
    tensors, reason = CASES[name]
    with pytest.raises(InferenceServerException) as caught:
        infer(server, protocol, "clip_zero_shot", **tensors)
    assert caught.value.status() == STATUS[protocol]
    assert reason in caught.value.message()
    assert "Traceback" not in caught.value.message()
    with Client(server.grpc_url) as client:
        assert client.classify(GOOD, ["cat"])[0]["score"] == 1.0


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize(
    ("model", "tensors", "reason"),
    [
        (
            "vision_encoder",
            {"pixel_values": np.zeros((1, 1, 3, 64, 64), np.uint8)},
            r"takes [rows, images, 3, 224, 224]",
        ),
        ("vision_encoder", {"pixel_values": np.zeros((1, 0, 3, 224, 224), np.uint8)}, "no images"),
        ("vision_encoder", {"pixel_values": np.zeros((1, 1, 1, 224, 224), np.uint8)}, "unexpected shape"),
        (
            "similarity",
            {
                "image_embeds": np.zeros((1, 1, 512), np.float32),
                "text_embeds": np.zeros((1, 2, 256), np.float32),
            },
            "512 dimensions and text_embeds 256",
        ),
        (
            "similarity",
            {
                "image_embeds": np.zeros((1, 0, 512), np.float32),
                "text_embeds": np.zeros((1, 2, 512), np.float32),
            },
            "nothing to rank",
        ),
    ],
)
def test_invalid_tensor_for_a_composing_model_is_rejected(server, protocol, model, tensors, reason):
    with pytest.raises(InferenceServerException) as caught:
        infer(server, protocol, model, **tensors)
    assert caught.value.status() == STATUS[protocol]
    assert reason in caught.value.message()


def test_request_at_the_limits_is_accepted(server):
    labels = bytes_tensor([b"x" * 4096, *[b"label %d" % number for number in range(9_999)]])
    assert infer(server, "grpc", "clip_text_embedding", text=labels)["text_embeds"].shape == (1, 10_000, 512)
    images = bytes_tensor([GOOD] * 256)
    assert infer(server, "grpc", "image_preprocess", image=images)["pixel_values"].shape == (
        1,
        256,
        3,
        224,
        224,
    )
