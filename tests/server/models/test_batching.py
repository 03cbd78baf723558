"""Concurrent requests: they are merged, answered as if sent alone, and not affected by invalid ones."""

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.helpers.calls import bytes_tensor, infer, metric, together
from tests.helpers.pictures import encode, noise, varied_images
from tritonclip import Client, InvalidInputError

LABELS = ["red circle", "blue square", "cat", "house", "digit seven", "star", "noise"]
CALLERS = 32


def request_of(index):
    """Return a request whose numbers of images and labels differ from those of the requests around it."""
    images = list(varied_images().values())
    return images[index : index + 1 + index % 3], LABELS[: 1 + index % len(LABELS)]


def scores(answer):
    return np.array(
        [[each["score"] for each in sorted(one, key=lambda each: each["label"])] for one in answer]
    )


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_concurrent_requests_get_the_same_scores_as_alone(server, protocol):
    url = server.grpc_url if protocol == "grpc" else server.http_url
    with Client(url, protocol=protocol, timeout_s=120) as client:
        alone = [client.classify(*request_of(index)) for index in range(CALLERS)]
        before = metric(server, "nv_inference_exec_count", model="vision_encoder")
        answers = together(CALLERS, lambda index: client.classify(*request_of(index)))
        passes = metric(server, "nv_inference_exec_count", model="vision_encoder") - before
    for one, other in zip(alone, answers, strict=True):
        np.testing.assert_allclose(scores(one), scores(other), atol=1e-5)
    assert passes < CALLERS, "no two requests were merged"


def test_concurrent_embeddings_equal_those_computed_alone(server):
    with Client(server.grpc_url, timeout_s=120) as client:
        alone = [client.embed_images(request_of(index)[0]) for index in range(CALLERS)]
        answers = together(CALLERS, lambda index: client.embed_images(request_of(index)[0]))
    for one, other in zip(alone, answers, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("bad", [b"no image at all", b"", encode(noise(300, 200), "JPEG")[:2000]])
def test_invalid_image_fails_only_its_request(server, protocol, bad):
    url = server.grpc_url if protocol == "grpc" else server.http_url
    good = encode(noise(200, 200), "PNG")
    tensors = {
        "image": bytes_tensor([good, bad]),
        "labels": bytes_tensor([b"red circle", b"cat"]),
    }
    culprits = {5, 20}

    def call(index):
        if index in culprits:
            return infer(server, protocol, "clip_zero_shot", **tensors)
        return client.classify(*request_of(index))

    with Client(url, protocol=protocol, timeout_s=120) as client:
        alone = [client.classify(*request_of(index)) for index in range(CALLERS)]
        before = metric(server, "nv_inference_exec_count", model="image_preprocess")
        answers = together(CALLERS, call)
        passes = metric(server, "nv_inference_exec_count", model="image_preprocess") - before
    for index, answer in enumerate(answers):
        if index in culprits:
            assert isinstance(answer, InferenceServerException)
            assert "image 1 " in str(answer)
        else:
            assert not isinstance(answer, Exception), answer
            np.testing.assert_allclose(scores(answer), scores(alone[index]), atol=1e-5)
    assert passes < CALLERS, "no two requests were merged"


def test_invalid_label_fails_only_its_request_before_its_image_is_decoded(server):
    good = bytes_tensor([encode(noise(64, 64), "PNG")])
    before = metric(server, "nv_inference_count", model="image_preprocess")

    def call(index):
        labels = [b"cat", b"\xff"] if index == 3 else [b"cat", b"label %d" % index]
        return infer(server, "grpc", "clip_zero_shot", image=good, labels=bytes_tensor(labels))

    answers = together(8, call)
    assert [index for index, answer in enumerate(answers) if isinstance(answer, Exception)] == [3]
    assert "label 1 is not valid UTF-8" in str(answers[3])
    assert metric(server, "nv_inference_count", model="image_preprocess") - before == 7


def test_rows_of_a_request_are_independent_groups(server):
    images = list(varied_images().values())
    rows = [(images[0:2], [b"cat", b"red circle"]), (images[2:4], [b"house", b"star"])]
    joined = infer(
        server,
        "grpc",
        "clip_zero_shot",
        image=bytes_tensor(*(row[0] for row in rows)),
        labels=bytes_tensor(*(row[1] for row in rows)),
    )
    assert joined["scores"].shape == joined["logits"].shape == (2, 2, 2)
    assert joined["token_counts"].shape == (2, 2)
    for index, (image, labels) in enumerate(rows):
        alone = infer(
            server, "grpc", "clip_zero_shot", image=bytes_tensor(image), labels=bytes_tensor(labels)
        )
        np.testing.assert_allclose(joined["scores"][index], alone["scores"][0], atol=1e-5)
    np.testing.assert_allclose(joined["scores"].sum(axis=-1), 1, atol=1e-6)


def test_request_larger_than_the_largest_bucket_is_answered(server):
    one = list(varied_images().values())[0]
    with Client(server.grpc_url, timeout_s=120) as client:
        embeds = client.embed_images([one] * 150)
        np.testing.assert_allclose(embeds, np.broadcast_to(client.embed_images(one), embeds.shape), atol=1e-5)


def test_client_error_names_the_image(server):
    with (
        Client(server.grpc_url) as client,
        pytest.raises(InvalidInputError, match="image 1 cannot be decoded"),
    ):
        client.classify([encode(noise(64, 64), "PNG"), encode(noise(300, 300), "JPEG")[:3000]], ["cat"])
