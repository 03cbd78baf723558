"""Answers of a server compared with transformers: many image formats, two precisions."""

import numpy as np
import pytest

from tests.helpers.parity import (
    LEAST_COSINE,
    SCORE_TOLERANCE,
    assert_embeddings_equal,
    assert_scores_equal,
    scores_of,
)
from tests.helpers.pictures import telling_images, varied_images
from tests.helpers.reference import LABELS, TEXTS, reference_answers
from tests.helpers.servers import DEMO_CHECKPOINT
from tritonclip import Client

pytestmark = pytest.mark.filterwarnings("ignore::tritonclip.TruncatedTextWarning")


@pytest.fixture
def demo():
    return reference_answers(DEMO_CHECKPOINT)


def test_scores_of_every_image_equal_the_models(server, demo, record_property):
    images = varied_images()
    assert len(images) >= 40
    with Client(server.grpc_url, timeout_s=120) as client:
        assert_scores_equal(client, images, demo, SCORE_TOLERANCE["float32"], record_property)


def test_embeddings_of_every_image_equal_the_models(server, demo, record_property):
    with Client(server.grpc_url, timeout_s=120) as client:
        assert_embeddings_equal(client, varied_images(), demo, LEAST_COSINE["float32"], record_property)


def test_scores_equal_the_pipelines(server, demo):
    images = telling_images()
    with Client(server.http_url, protocol="http", timeout_s=120) as client:
        scores = scores_of(client.classify(list(images.values()), LABELS))
    np.testing.assert_allclose(scores, demo.pipeline_scores(images), atol=SCORE_TOLERANCE["float32"])


@pytest.mark.variant("bfloat16")
def test_answers_in_bfloat16_are_close_to_the_models(server, demo, record_property):
    with Client(server.grpc_url, timeout_s=120) as client:
        images = telling_images()
        assert_scores_equal(client, images, demo, SCORE_TOLERANCE["bfloat16"], record_property)
        assert_embeddings_equal(client, images, demo, LEAST_COSINE["bfloat16"], record_property)


def test_both_protocols_return_the_same_answers(server):
    images = list(telling_images().values())
    with Client(server.grpc_url) as grpc, Client(server.http_url, protocol="http") as http:
        assert grpc.classify(images, LABELS) == http.classify(images, LABELS)
        np.testing.assert_array_equal(grpc.embed_images(images), http.embed_images(images))
        np.testing.assert_array_equal(grpc.embed_texts(TEXTS), http.embed_texts(TEXTS))
