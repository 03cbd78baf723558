"""Embeddings that are not finite: an internal error of the request with them, and of no other."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tests.helpers.pictures import encode, noise
from tests.helpers.variants import POISONED_COLOUR, POISONED_WORD
from tritonclip import Client, InferenceError

pytestmark = pytest.mark.variant("traced")
LABELS = ["a red circle", "a blue square"]
BAD = encode(Image.new("RGB", (224, 224), POISONED_COLOUR), "PNG")


@pytest.fixture(scope="module")
def client(server):
    with Client(server.grpc_url, timeout_s=60) as opened:
        yield opened


@pytest.fixture(scope="module")
def good():
    return [encode(noise(80, 60, seed), "PNG") for seed in range(8)]


@pytest.mark.parametrize(
    "call",
    [
        lambda client, images: client.classify(images, LABELS),
        lambda client, images: client.embed_images(images),
    ],
    ids=["classify", "embed"],
)
def test_image_whose_embedding_is_not_finite_is_named(client, good, call):
    with pytest.raises(InferenceError, match=r"image 2 has an embedding with NaN or infinity"):
        call(client, [*good[:2], BAD])


def test_pixels_whose_embedding_is_not_finite_are_named(server):
    with (
        Client(server.grpc_url, timeout_s=60, preprocess="client") as client,
        pytest.raises(InferenceError, match="image 0 has an embedding with NaN or infinity"),
    ):
        client.embed_images(BAD)


def test_text_whose_embedding_is_not_finite_is_named_each_time(client, good):
    for _ in range(2):
        with pytest.raises(InferenceError, match="label 1 has an embedding with NaN or infinity"):
            client.embed_texts(["fine", f"a {POISONED_WORD} text"])
        with pytest.raises(InferenceError, match="label 2 has an embedding with NaN or infinity"):
            client.classify(good[0], [*LABELS, POISONED_WORD])
    assert np.isfinite(client.embed_texts(["fine"])).all()


def test_requests_of_the_same_batch_are_answered(client, good):
    with ThreadPoolExecutor(16) as pool:
        bad = [pool.submit(client.classify, BAD, LABELS) for _ in range(8)]
        answers = list(pool.map(lambda image: client.classify(image, LABELS), good))
        assert all(isinstance(one.exception(), InferenceError) for one in bad)
    assert all(abs(sum(one["score"] for one in answer) - 1) < 1e-4 for answer in answers)


def test_bulk_run_loses_only_the_image_at_fault(client, good):
    results = list(client.classify_many([*good[:3], BAD, *good[3:]], LABELS, on_error="return"))
    assert [isinstance(one, InferenceError) for one in results] == [False] * 3 + [True] + [False] * 5
    assert "image 3 has an embedding with NaN or infinity" in str(results[3])
