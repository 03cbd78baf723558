"""Answers of a server compared with transformers: many image formats, two checkpoints, two precisions."""

import numpy as np
import pytest

from tests.helpers.pictures import varied_images
from tests.helpers.reference import LABELS, TEXTS, reference_answers
from tests.helpers.servers import DEMO_CHECKPOINT
from tritonclip import Client
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

SCORE_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.01}
RANDOM_BFLOAT16_TOLERANCE = 0.015
"""Tolerance of scores for ViT-B/32 with random weights and a logit scale of 100.

On a CPU with AMX, the scores of transformers itself in bfloat16 differ from those in float32 by 0.0077, and
by 0.0103 with the labels in float32.
"""
LEAST_COSINE = {"float32": 0.99999, "bfloat16": 0.9999}


@pytest.fixture(
    scope="module",
    params=[("demo", "float32"), ("demo", "bfloat16"), ("random", "float32"), ("random", "bfloat16")],
    ids="-".join,
)
def served(request, prepare, random_checkpoint):
    """A server of one checkpoint in one precision, its reference answers, the precision and the tolerance."""
    name, precision = request.param
    tolerance = SCORE_TOLERANCE[precision]
    if request.param == ("demo", "float32"):
        yield request.getfixturevalue("server"), reference_answers(DEMO_CHECKPOINT), precision, tolerance
        return
    if request.param == ("random", "bfloat16"):
        tolerance = RANDOM_BFLOAT16_TOLERANCE
    source = random_checkpoint if name == "random" else DEMO_CHECKPOINT
    repository = prepare(source, "--precision", precision)
    with EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as server:
        yield server, reference_answers(source), precision, tolerance


@pytest.fixture(params=["grpc", "http"])
def case(request, served):
    server, reference, precision, _ = served
    url = server.grpc_url if request.param == "grpc" else server.http_url
    with Client(url, protocol=request.param, timeout_s=120) as client:
        yield client, reference, precision


def test_at_least_forty_images_are_compared():
    assert len(varied_images()) >= 40


def test_scores_equal_the_pipelines(case, served, record_property):
    client, reference, _ = case
    answers = client.classify(list(varied_images().values()), LABELS)
    scores = np.array(
        [[{each["label"]: each["score"] for each in one}[label] for label in LABELS] for one in answers]
    )
    worst = np.abs(scores - reference.scores).max()
    record_property("largest score error", float(worst))
    assert worst < served[3]


@pytest.mark.filterwarnings("ignore::tritonclip.TruncatedTextWarning")
def test_embeddings_equal_the_models(case, record_property):
    client, reference, precision = case
    images = client.embed_images(list(varied_images().values()))
    texts = client.embed_texts(TEXTS)
    for kind, ours, theirs in (
        ("image", images, reference.image_embeds),
        ("text", texts, reference.text_embeds),
    ):
        assert ours.shape == theirs.shape
        assert ours.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(ours, axis=-1), 1, atol=1e-5)
        cosine = (ours * theirs).sum(axis=-1).min()
        record_property(f"least {kind} cosine", float(cosine))
        assert cosine >= LEAST_COSINE[precision]


@pytest.mark.filterwarnings("ignore::tritonclip.TruncatedTextWarning")
def test_both_protocols_return_the_same_answers(served):
    server = served[0]
    images = list(varied_images().values())[:8]
    with Client(server.grpc_url) as grpc, Client(server.http_url, protocol="http") as http:
        assert grpc.classify(images, LABELS) == http.classify(images, LABELS)
        np.testing.assert_array_equal(grpc.embed_images(images), http.embed_images(images))
        np.testing.assert_array_equal(grpc.embed_texts(TEXTS), http.embed_texts(TEXTS))
