"""Requests whose files worker processes decode, next to requests with plain images."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from tritonclient.utils import InferenceServerException

from tests.helpers.calls import bytes_tensor, infer, together
from tests.helpers.pictures import encode, noise
from tests.helpers.waiting import wait_until

PLAIN, OTHER = encode(noise(99, 88), "JPEG"), encode(noise(99, 88), "WEBP", lossless=True)
SLOW = b"P3 1200 1200 255\n" + b"1 2 3 " * 1_440_000
"""A picture in digits, which a worker decodes in Python."""


def preprocess(server, *files):
    return infer(server, "grpc", "image_preprocess", image=bytes_tensor(list(files)))["pixel_values"][0]


def worker_is_busy(server):
    workers = [
        process
        for process in psutil.Process(server.pid).children(recursive=True)
        if any("clip_worker" in part for part in process.cmdline())
    ]
    before = [process.cpu_times().user for process in workers]
    time.sleep(0.2)
    return any(process.cpu_times().user - used >= 0.03 for process, used in zip(workers, before, strict=True))


def test_slow_file_does_not_delay_plain_images(server):
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(preprocess, server, SLOW)
        wait_until(lambda: worker_is_busy(server), "no worker decodes")
        preprocess(server, PLAIN)
        assert not slow.done()
        assert (slow.result()[0, 0] == 1).all()


def test_more_requests_than_can_be_deferred_are_answered(server):
    plain, other = preprocess(server, PLAIN), preprocess(server, OTHER)
    expected = {0: [plain], 1: [other], 2: [other, plain, other]}
    files = {0: [PLAIN], 1: [OTHER], 2: [OTHER, PLAIN, OTHER]}
    for number, pixels in enumerate(together(48, lambda number: preprocess(server, *files[number % 3]))):
        np.testing.assert_array_equal(pixels, np.concatenate(expected[number % 3]))


def test_invalid_file_in_a_deferred_request_is_named(server):
    with pytest.raises(InferenceServerException, match="image 1 is not an image in a format accepted here"):
        preprocess(server, OTHER, b"text")
