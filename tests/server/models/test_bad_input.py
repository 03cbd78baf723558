"""Invalid requests to the server itself: each error names the index and the reason, over both protocols."""

import io
import struct
from functools import cache

import numpy as np
import pytest
from PIL import Image
from tritonclient.utils import InferenceServerException

from clip_geometry import TORCHVISION, ProcessorSettings
from clip_images import ImageDecoder
from tests.helpers.calls import bytes_tensor, infer
from tests.helpers.odd_pictures import ODD_PICTURES, heif_of_size, odd_picture
from tests.helpers.pictures import encode, noise

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")
LABEL = bytes_tensor([b"cat"])


@cache
def good():
    """Return a small valid image."""
    return encode(noise(64, 64), "PNG")


def bomb():
    """Return a PNG of 20,000 x 20,000 pixels in a few kilobytes."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


def images(*files):
    """Return a function that makes tensors of these files and a valid label; functions make their file."""
    return lambda: {
        "image": bytes_tensor([file() if callable(file) else file for file in files]),
        "labels": LABEL,
    }


def labels(*texts):
    """Return a function that makes tensors of a valid image and these labels."""
    return lambda: {"image": bytes_tensor([good()]), "labels": bytes_tensor(list(texts))}


def wide_runs():
    """Return a BMP of 399,000 x 224 pixels in 2 kB, whose rows end after one pixel."""
    data = b"\x01\x00\x00\x00" * 224 + b"\x00\x01"
    info = struct.pack("<IiiHHIIiiII", 40, 399_000, 224, 1, 8, 1, len(data), 0, 0, 256, 0)
    return struct.pack("<2sIHHI", b"BM", 1078 + len(data), 0, 0, 1078) + info + bytes(1024) + data


CASES = {
    "no images": (images(), "no images"),
    "no labels": (labels(), "no labels"),
    "empty label": (labels(b"cat", b""), "label 1 is empty"),
    "blank label": (labels(b"  "), "label 0 is empty"),
    "not UTF-8": (labels(b"a\xff"), "label 0 is not valid UTF-8 at byte 1"),
    "long label": (labels(b"x" * 5000), "label 0 is too long: 5000 bytes"),
    "many labels": (labels(*[b"x"] * 10_001), "10001 in one request"),
    "empty image": (images(good, b""), "image 1 is empty"),
    "no image": (images(b"text"), "image 0 is not an image"),
    "truncated": (images(good, lambda: good()[:3000]), "image 1 cannot be decoded"),
    "bomb": (images(bomb), "image 0 is too large"),
    "HEIC bomb": (images(lambda: heif_of_size(20_000, 20_000)), "image 0 is too large"),
    "many images": (images(*[b"\x89PNG"] * 257), "257 in one request"),
    "large request": (images(*[lambda: bytes(1 << 25)] * 3), "bytes of images, the limit"),
    "second row": (
        lambda: {
            "image": bytes_tensor([good(), good()], [good(), b"x"]),
            "labels": bytes_tensor([b"cat"], [b"dog"]),
        },
        "image 1 of row 1",
    ),
    "slow to decode": (
        images(good, wide_runs),
        "image 1 is too large: 399000 x 224 pixels, and the limit for this encoding of BMP is 40000000",
    ),
    "wrong dtype": (lambda: {"image": np.ones((1, 2), np.float32), "labels": LABEL}, "expects 'BYTES'"),
    "wrong rank": (
        lambda: {"image": bytes_tensor([good()])[0], "labels": LABEL},
        "unexpected shape for input 'image'",
    ),
    "rows differ": (
        lambda: {"image": bytes_tensor([good()]), "labels": bytes_tensor([b"a"], [b"b"])},
        "batch size",
    ),
    "input missing": (lambda: {"image": bytes_tensor([good()])}, "expected 2 inputs but got 1"),
    "invalid image and label": (
        lambda: {"image": bytes_tensor([b"text"]), "labels": bytes_tensor([b"cat", b""])},
        "label 1 is empty",  # labels are checked before an image is decoded
    ),
}
STATUS = {"grpc": "StatusCode.INVALID_ARGUMENT", "http": "400"}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("name", CASES)
def test_invalid_request_is_rejected_with_the_reason(server, protocol, name):
    make, reason = CASES[name]
    with pytest.raises(InferenceServerException) as caught:
        infer(server, protocol, "clip_zero_shot", **make())
    assert caught.value.status() == STATUS[protocol]
    assert reason in caught.value.message()
    assert "Traceback" not in caught.value.message()
    answer = infer(server, "grpc", "clip_zero_shot", **images(good)())
    assert answer["scores"].tolist() == [[[1.0]]]


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


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("model", ["image_preprocess", "vision_encoder", "text_encoder", "similarity"])
@pytest.mark.parametrize("times", [[0, 2**61, 2**61, 0, 0, 0], [2**62] * 6, [-(2**62)] * 6])
def test_times_that_the_caller_made_are_rejected(server, protocol, model, times):
    inputs = {
        "image_preprocess": {"image": bytes_tensor([good()])},
        "vision_encoder": {"pixel_values": np.zeros((1, 1, 3, 224, 224), np.uint8)},
        "text_encoder": {"text": LABEL},
        "similarity": dict.fromkeys(("image_embeds", "text_embeds"), np.ones((1, 1, 8), np.float32)),
    }[model]
    with pytest.raises(InferenceServerException, match="times: no step of an ensemble made") as caught:
        infer(server, protocol, model, **inputs, times=np.array([times], np.int64))
    assert caught.value.status() == STATUS[protocol]
    infer(server, protocol, model, **inputs)


def test_request_at_the_limits_is_accepted(server):
    most = bytes_tensor([b"x" * 4096, *[b"label %d" % number for number in range(9_999)]])
    assert infer(server, "grpc", "clip_text_embedding", text=most)["text_embeds"].shape == (1, 10_000, 512)
    answer = infer(server, "grpc", "image_preprocess", image=bytes_tensor([good()] * 256))
    assert answer["pixel_values"].shape == (1, 256, 3, 224, 224)


def test_odd_files_give_the_pixels_of_the_decoder(server):
    names = [name for name in ODD_PICTURES if name != "JPEG motion photo"]  # of 8 MB
    files = [odd_picture(name) for name in names]
    settings = ProcessorSettings(224, 3, (224, 224), image_processor=TORCHVISION)
    decoder = ImageDecoder(settings, FORMATS, 89_478_485)
    answer = infer(server, "grpc", "image_preprocess", image=bytes_tensor(files))
    for name, file, pixels in zip(names, files, answer["pixel_values"][0], strict=True):
        np.testing.assert_array_equal(pixels, decoder.decode(file), name)
