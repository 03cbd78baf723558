"""Clients that decode, resize, crop and score themselves, compared with the server."""

import numpy as np
import pytest

from tests.helpers.calls import bytes_tensor, infer, parameters
from tests.helpers.clients import BOTH_KINDS
from tests.helpers.network import count_calls
from tests.helpers.pictures import telling_images, varied_images
from tests.helpers.servers import ROOT
from tritonclip import ModelNotReadyError, TruncatedTextWarning
from tritonclip._calls.client_scoring import decode_vision
from tritonclip._images.preprocess import ProcessorSettings, preprocess_image

SAMPLE = ROOT / "scripts" / "demo" / "images" / "red_circle.jpg"
LABELS = ["a red circle", "a blue square", "the digit 7"]


@pytest.fixture
def local(make, url):
    return make(url, timeout_s=60, preprocess="client")


def test_pixel_values_of_the_client_equal_those_of_the_server(server):
    settings = ProcessorSettings.from_json(parameters(server, "clip_pixel_embedding")["processor"])
    files = varied_images()
    theirs = infer(server, "grpc", "image_preprocess", image=bytes_tensor(list(files.values())))
    for (name, encoded), pixels in zip(files.items(), theirs["pixel_values"][0], strict=True):
        np.testing.assert_array_equal(preprocess_image(encoded, 0, settings), pixels, err_msg=name)


def test_client_preprocessing_gives_the_answers_of_the_server(local, client):
    images = list(telling_images().values())
    np.testing.assert_allclose(local.embed_images(images), client.embed_images(images), atol=1e-5)
    for ours, theirs in zip(local.classify(images, LABELS), client.classify(images, LABELS), strict=True):
        by_label = {one["label"]: one["score"] for one in theirs}
        np.testing.assert_allclose(
            [one["score"] for one in ours], [by_label[one["label"]] for one in ours], atol=1e-5
        )
    assert local.classify(SAMPLE, LABELS, top_k=1)[0]["label"] == "a red circle"
    np.testing.assert_allclose(local.similarity(SAMPLE, LABELS), client.similarity(SAMPLE, LABELS), atol=1e-6)


@BOTH_KINDS
def test_client_preprocessing_sends_no_images_and_no_known_labels(server, protocol, make):
    with count_calls(server, protocol) as calls:
        local = make(calls.url, timeout_s=60, preprocess="client")
        local.classify(SAMPLE, LABELS)
        calls.models.clear()
        local.classify([SAMPLE, SAMPLE], [*LABELS[::-1], "a new label"])
        assert sorted(calls.models) == ["clip_pixel_embedding", "clip_text_embedding"]
        calls.models.clear()
        local.classify(SAMPLE, LABELS)
        assert calls.models == ["clip_pixel_embedding"]


@BOTH_KINDS
def test_truncated_label_is_reported_on_each_call(local):
    for _ in range(2):
        with pytest.warns(TruncatedTextWarning, match="label 1 has"):
            local.classify(SAMPLE, ["short", "word " * 200])


@BOTH_KINDS
def test_many_labels_are_sent_in_several_requests(local, client):
    labels = [f"thing number {number}" for number in range(2500)]
    ours, theirs = local.classify(SAMPLE, labels), client.classify(SAMPLE, labels[:1000])
    assert len(ours) == 2500
    assert len(theirs) == 1000
    assert sum(one["score"] for one in ours) == pytest.approx(1, abs=1e-4)


def test_repository_without_processor_settings_is_rejected():
    with pytest.raises(ModelNotReadyError, match="no parameter 'processor'.*preprocess='server'"):
        decode_vision({"logit_scale": "100"})
