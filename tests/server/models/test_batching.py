"""Concurrent requests: they are merged, answered as if sent alone, and not affected by invalid ones."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.helpers.calls import bytes_tensor, infer, metric, together
from tests.helpers.pictures import encode, noise, telling_images
from tests.helpers.waiting import wait_until
from tritonclip import Client

LABELS = ["red circle", "blue square", "cat", "house", "digit seven", "star", "noise"]
CALLERS = 24


def request_of(index):
    """Return a request whose numbers of images and labels differ from those of the requests around it."""
    images = list(telling_images().values())
    return [images[(index + turn) % len(images)] for turn in range(1 + index % 3)], LABELS[: 1 + index % 7]


def scores(answer):
    return np.array(
        [[each["score"] for each in sorted(one, key=lambda each: each["label"])] for one in answer]
    )


def test_concurrent_requests_get_the_same_scores_as_alone(server):
    with Client(server.grpc_url, timeout_s=120) as client:
        alone = [client.classify(*request_of(index)) for index in range(CALLERS)]
        answers = together(CALLERS, lambda index: client.classify(*request_of(index)))
    for one, other in zip(alone, answers, strict=True):
        np.testing.assert_allclose(scores(one), scores(other), atol=1e-5)


def send_as_one_batch(server, gate, model, requests):
    """Hold a first request until the others wait, so that Triton merges those; return their outcomes."""

    def send(tensors):
        try:
            return infer(server, "grpc", model, **tensors)
        except InferenceServerException as error:
            return error

    def waiting():
        return metric(server, "nv_inference_pending_request_count", model=model)

    with ThreadPoolExecutor(len(requests) + 1) as pool:
        with gate.closed(model):
            first = pool.submit(send, requests[0])
            gate.wait_until_it_holds(model)
            others = [pool.submit(send, tensors) for tensors in requests]
            wait_until(lambda: waiting() == len(requests), "not all requests wait")
            before = gate.batches(model)
        assert not isinstance(first.result(), Exception), first.result()
        outcomes = [other.result() for other in others]
    assert gate.batches(model)[len(before) :] == [1, len(requests)]
    return outcomes


@pytest.mark.variant("overload")
def test_merged_images_are_encoded_as_if_sent_alone(server, gate):
    images = [bytes_tensor(request_of(index)[0]) for index in range(CALLERS)]
    pixels = [infer(server, "grpc", "image_preprocess", image=image)["pixel_values"] for image in images]
    alone = [infer(server, "grpc", "vision_encoder", pixel_values=one)["image_embeds"] for one in pixels]
    requests = [{"pixel_values": one} for one in pixels]
    for one, merged in zip(alone, send_as_one_batch(server, gate, "vision_encoder", requests), strict=True):
        np.testing.assert_allclose(merged["image_embeds"], one, atol=1e-5)


@pytest.mark.variant("overload")
def test_invalid_image_fails_only_its_request_in_a_batch(server, gate):
    good = list(telling_images().values())
    culprits = {5: b"no image at all", 11: b"", 20: encode(noise(300, 200), "JPEG")[:2000]}
    requests = []
    for index in range(CALLERS):
        second = culprits.get(index, good[(index + 1) % len(good)])
        requests.append({"image": bytes_tensor([good[index % len(good)], second])})
    exact = {}
    for index, image in enumerate(good):
        exact[index] = infer(server, "grpc", "image_preprocess", image=bytes_tensor([image]))
    for index, outcome in enumerate(send_as_one_batch(server, gate, "image_preprocess", requests)):
        if index in culprits:
            assert isinstance(outcome, InferenceServerException)
            assert "image 1 " in str(outcome)
        else:
            assert not isinstance(outcome, Exception), outcome
            for position in (0, 1):
                alone = exact[(index + position) % len(good)]["pixel_values"][0, 0]
                np.testing.assert_array_equal(outcome["pixel_values"][0, position], alone)


def test_invalid_label_fails_only_its_request(server):
    good = bytes_tensor([encode(noise(64, 64), "PNG")])

    def call(index):
        labels = [b"cat", b"\xff"] if index == 3 else [b"cat", b"label %d" % index]
        return infer(server, "grpc", "clip_zero_shot", image=good, labels=bytes_tensor(labels))

    answers = together(8, call)
    assert [index for index, answer in enumerate(answers) if isinstance(answer, Exception)] == [3]
    assert "label 1 is not valid UTF-8" in str(answers[3])


def test_rows_of_a_request_are_independent_groups(server):
    images = list(telling_images().values())
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
    one = encode(noise(40, 30), "PNG")
    with Client(server.grpc_url, timeout_s=120) as client:
        embeds = client.embed_images([one] * 150)
        np.testing.assert_allclose(embeds, np.broadcast_to(client.embed_images(one), embeds.shape), atol=1e-5)
