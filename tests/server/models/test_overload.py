"""Overload and deadlines: late requests are rejected before any work on them, others get correct answers."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.helpers.calls import bytes_tensor, cache_counts, infer, metric, settled_metric
from tests.helpers.servers import ROOT
from tests.helpers.variants import QUEUE_BUDGET_MS
from tests.helpers.waiting import wait_until
from tritonclip import Client, ServerUnavailableError

pytestmark = pytest.mark.variant("overload")

SAMPLE = ROOT / "scripts/demo/images/red_circle.jpg"
LABELS = ["a red circle", "a blue square", "a green triangle"]
CALLERS = 12


def rejections(server, **labels):
    return settled_metric(server, "tritonclip_requests_refused_total", **labels)


def waiting(server, model="vision_encoder"):
    return metric(server, "nv_inference_pending_request_count", model=model)


def outcome(call, *arguments, **options):
    try:
        return call(*arguments, **options)
    except (ServerUnavailableError, InferenceServerException) as error:
        return error


@pytest.fixture
def pixels(server):
    """The tensor that the vision encoder gets for the sample; direct requests to the model have no limits.

    Requests that other tests abandoned have ended, because each model answers in the order of arrival.
    """
    answer = infer(server, "grpc", "image_preprocess", image=bytes_tensor([SAMPLE.read_bytes()]))
    infer(server, "grpc", "vision_encoder", pixel_values=answer["pixel_values"])
    return {"pixel_values": answer["pixel_values"]}


def test_requests_that_wait_longer_than_the_queue_budget_are_rejected(server, gate, pixels):
    with (
        Client(server.grpc_url, attempts=1, timeout_s=600) as client,
        Client(server.grpc_url, attempts=5, timeout_s=600) as patient,
        ThreadPoolExecutor(CALLERS + 1) as pool,
    ):
        expected = patient.classify(SAMPLE, LABELS)
        before = rejections(server, reason="overload", model="vision_encoder")
        with gate.closed():
            calls = [pool.submit(outcome, client.classify, SAMPLE, LABELS)]
            gate.wait_until_it_holds()
            calls += [pool.submit(outcome, client.classify, SAMPLE, LABELS) for _ in range(CALLERS - 1)]
            unlimited = pool.submit(infer, server, "grpc", "vision_encoder", **pixels)
            wait_until(lambda: waiting(server) == CALLERS, "not all requests wait")
            time.sleep(QUEUE_BUDGET_MS / 1000)
        for call in calls:
            error = call.result()
            assert isinstance(error, ServerUnavailableError)
            assert "overloaded: the request has waited" in str(error)
            assert f"the queue budget is {QUEUE_BUDGET_MS} ms (admission.queue_budget_ms)" in str(error)
        assert rejections(server, reason="overload", model="vision_encoder") - before == CALLERS
        assert unlimited.result()["image_embeds"].shape == (1, 1, 512)
        assert waiting(server) == 0
        answer = patient.classify(SAMPLE, LABELS)
    assert [one["label"] for one in answer] == [one["label"] for one in expected]
    np.testing.assert_allclose(
        [one["score"] for one in answer], [one["score"] for one in expected], atol=1e-5
    )


def test_request_whose_deadline_passes_in_the_queue_is_rejected(server, gate, pixels):
    deadline_ms = 500

    def call():
        options = {"deadline_ms": deadline_ms}
        image = bytes_tensor([SAMPLE.read_bytes()])
        return outcome(infer, server, "grpc", "clip_image_embedding", options, image=image)

    with ThreadPoolExecutor(9) as pool, gate.closed():
        holding = pool.submit(infer, server, "grpc", "vision_encoder", **pixels)
        gate.wait_until_it_holds()
        calls = [pool.submit(call) for _ in range(8)]
        # On a slow machine some are rejected before they reach the vision encoder.
        wait_until(lambda: waiting(server) + sum(call.done() for call in calls) == 8, "not all calls wait")
        time.sleep(deadline_ms / 1000)
    assert holding.result()["image_embeds"].shape == (1, 1, 512)
    reasons = [str(call.result()) for call in calls]
    assert all(re.search("deadline (passed|cannot be met): the request has waited", one) for one in reasons)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("deadline_ms", [0, -1, "-0.5"])
def test_request_that_arrives_without_time_left_reaches_no_expensive_model(server, protocol, deadline_ms):
    at_admission, later = (rejections(server, model=model) for model in ("admission", "text_encoder"))
    labels = cache_counts(server)
    tensors = {"image": bytes_tensor([b"no image"]), "labels": bytes_tensor([b"a label of this test only"])}
    with pytest.raises(InferenceServerException, match="deadline passed: the request arrived with"):
        infer(server, protocol, "clip_zero_shot", {"deadline_ms": deadline_ms}, **tensors)
    assert rejections(server, model="admission") == at_admission + 1
    assert rejections(server, model="text_encoder") == later
    assert cache_counts(server) == labels


@pytest.mark.parametrize("value", ["soon", True])
def test_invalid_deadline_is_an_invalid_argument(server, value):
    with pytest.raises(InferenceServerException, match="parameter 'deadline_ms' must") as caught:
        infer(server, "grpc", "clip_text_embedding", {"deadline_ms": value}, text=bytes_tensor([b"x"]))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_text_encoder_without_admission_returns_embeddings_and_times(server):
    found = infer(server, "grpc", "text_encoder", text=bytes_tensor([b"a red circle"]))
    assert found["text_embeds"].shape == (1, 1, 512)
    assert found["times"].shape == (1, 6)
