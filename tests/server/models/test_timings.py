"""The output `timings_us`: where the time of a request went on the server."""

import time

import numpy as np
import pytest

from tests.helpers.calls import bytes_tensor, infer
from tests.helpers.pictures import encode, noise

PLAIN, OTHER = encode(noise(99, 88), "JPEG"), encode(noise(99, 88), "WEBP", lossless=True)
PARTS = ("queue", "text", "decode", "encode", "score")


def new_text():
    return bytes_tensor([b"a label that no other request has, %d" % time.monotonic_ns()])


REQUESTS = {
    "clip_zero_shot": lambda: {"image": bytes_tensor([PLAIN]), "labels": new_text()},
    "clip_image_embedding": lambda: {"image": bytes_tensor([OTHER, PLAIN])},
    "clip_text_embedding": lambda: {"text": new_text()},
    "clip_pixel_embedding": lambda: {"pixel_values": np.zeros((1, 2, 3, 224, 224), np.uint8)},
}
WORK = {
    "clip_zero_shot": {"text", "decode", "encode", "score"},
    "clip_image_embedding": {"decode", "encode"},
    "clip_text_embedding": {"text"},
    "clip_pixel_embedding": {"encode"},
}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("model", REQUESTS)
def test_parts_are_those_of_the_models_steps_and_fit_into_the_callers_time(server, model, protocol):
    start_s = time.perf_counter()
    timings = infer(server, protocol, model, **REQUESTS[model]())["timings_us"]
    took_us = (time.perf_counter() - start_s) * 1e6
    assert (timings.dtype, timings.shape) == (np.int64, (1, 5))
    parts = dict(zip(PARTS, timings[0].tolist(), strict=True))
    work = {name for name, part_us in parts.items() if part_us > 0 and name != "queue"}
    assert work - {"score"} == WORK[model] - {"score"}  # scoring one label can take less than 1 us
    assert parts["queue"] >= 0
    assert sum(parts.values()) <= took_us


def test_large_text_request_counts_the_time_of_its_turns_as_text(server):
    texts = bytes_tensor([b"text %d, %d, of a large request" % (n, time.monotonic_ns()) for n in range(300)])
    large = infer(server, "grpc", "clip_text_embedding", text=texts)["timings_us"][0]
    small = infer(server, "grpc", "clip_text_embedding", text=new_text())["timings_us"][0]
    assert large[1] > small[1]


def test_direct_call_of_a_step_has_its_own_work_only(server):
    pixels = np.zeros((1, 1, 3, 224, 224), np.uint8)
    queue, text, decode, encode_us, score = infer(server, "grpc", "vision_encoder", pixel_values=pixels)[
        "timings_us"
    ][0]
    assert encode_us > 0
    assert not (queue or text or decode or score)
