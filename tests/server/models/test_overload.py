"""Overload: accepted requests get correct answers, and rejected ones cost next to nothing."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc

from tests.helpers.calls import bytes_tensor, infer, metric, together
from tests.helpers.servers import ROOT
from tritonclip import Client, ServerUnavailableError
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

QUEUE_BUDGET_MS = 500
PATHS = sorted(path for path in (ROOT / "scripts/demo/images").iterdir() if path.suffix != ".json")
LABELS = ["a red circle", "a blue square", "a green triangle"]
EXPENSIVE = ("text_encoder", "image_preprocess", "vision_encoder")


@pytest.fixture(scope="module")
def small(prepare):
    """A server with a queue budget of 500 ms."""
    budget = ("--set", f"admission.queue_budget_ms={QUEUE_BUDGET_MS}")
    exact = ("--precision", "float32", "--set", "vision_encoder.compile=off")
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    with EmbeddedTriton(prepare("scripts/demo/checkpoint", *budget, *exact), options) as running:
        yield running


def rejections(server, **labels):
    return metric(server, "tritonclip_requests_refused_total", **labels)


def settled_rows(server, model):
    """Return the rows that a model has answered, including rejected ones, once Triton has counted them."""
    time.sleep(0.3)
    return metric(server, "nv_inference_request_success", model=model)


def test_flood_of_requests_is_answered_correctly_or_rejected(small, record_property):
    with Client(small.grpc_url, attempts=1) as client, Client(small.grpc_url, attempts=5) as patient:
        groups = [3 * (PATHS[start:] + PATHS[:start]) for start in range(len(PATHS))]
        expected = [patient.classify(group, LABELS) for group in groups]
        before = settled_rows(small, "similarity")
        rejected_before = rejections(small, reason="overload")

        def call(index):
            answers = [index % len(groups)]
            for _ in range(3):
                try:
                    answers.append(client.classify(groups[index % len(groups)], LABELS))
                except ServerUnavailableError as error:
                    answers.append(error)
            return answers

        outcomes = together(48, call)
        rejected = accepted = 0
        for which, *answers in outcomes:
            for answer in answers:
                if isinstance(answer, ServerUnavailableError):
                    assert "overloaded: the request has waited" in str(answer)
                    assert f"the queue budget is {QUEUE_BUDGET_MS} ms (admission.queue_budget_ms)" in str(
                        answer
                    )
                    rejected += 1
                else:
                    assert_same(answer, expected[which])
                    accepted += 1
        assert rejected + accepted == 144
        assert rejected > 0
        assert accepted > 0
        assert settled_rows(small, "similarity") - before == accepted
        assert rejections(small, reason="overload") - rejected_before == rejected
        record_property("accepted", accepted)
        record_property("rejected", rejected)
        record_property("rejected_after_decoding", rejections(small, model="vision_encoder"))
        for model in EXPENSIVE:
            assert metric(small, "nv_inference_pending_request_count", model=model) == 0
        assert_same(patient.classify(groups[0], LABELS), expected[0])


def assert_same(answer, expected):
    for ours, theirs in zip(answer, expected, strict=True):
        assert [one["label"] for one in ours] == [one["label"] for one in theirs]
        np.testing.assert_allclose(
            [one["score"] for one in ours], [one["score"] for one in theirs], atol=1e-5
        )


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_request_that_arrives_without_time_left_reaches_no_expensive_model(small, protocol):
    rows = {model: settled_rows(small, model) for model in EXPENSIVE}
    before = rejections(small, reason="deadline", model="admission")
    image = bytes_tensor([PATHS[0].read_bytes()])

    def call(index):
        deadline_ms = (0, -1, "-0.5")[index % 3]
        tensors = {"image": image, "labels": bytes_tensor([f"label {index}".encode()])}
        infer(small, protocol, "clip_zero_shot", parameters={"deadline_ms": deadline_ms}, **tensors)

    outcomes = together(64, call)
    assert all("deadline passed: the request arrived with" in str(outcome) for outcome in outcomes)
    assert rejections(small, reason="deadline", model="admission") == before + 64
    assert {model: settled_rows(small, model) for model in EXPENSIVE} == rows


@pytest.mark.parametrize("value", ["soon", True])
def test_invalid_deadline_is_an_invalid_argument(small, value):
    with pytest.raises(
        tritonclient.grpc.InferenceServerException, match="parameter 'deadline_ms' must"
    ) as caught:
        infer(
            small, "grpc", "clip_text_embedding", parameters={"deadline_ms": value}, text=bytes_tensor([b"x"])
        )
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_request_whose_deadline_passes_in_the_queue_is_rejected(small):
    """Requests of 256 images without a deadline keep `image_preprocess` busy until the short ones end."""
    file = PATHS[0].read_bytes()
    answered = threading.Event()

    def occupy(_):
        while not answered.is_set():
            infer(small, "grpc", "image_preprocess", image=bytes_tensor([file] * 256))

    def call(_):
        parameters = {"deadline_ms": 5}
        return infer(small, "grpc", "clip_image_embedding", parameters=parameters, image=bytes_tensor([file]))

    with ThreadPoolExecutor(4) as pool:
        occupiers = [pool.submit(occupy, index) for index in range(4)]
        try:
            while metric(small, "nv_inference_pending_request_count", model="image_preprocess") < 2:
                assert not any(occupier.done() for occupier in occupiers)
            outcomes = together(8, call)
        finally:
            answered.set()
        for occupier in occupiers:
            occupier.result()
    assert all("deadline passed: the request has waited" in str(outcome) for outcome in outcomes), outcomes


def test_request_that_bypasses_admission_has_no_limits(small):
    found = infer(small, "grpc", "text_encoder", text=bytes_tensor([b"a red circle"]))
    assert found["text_embeds"].shape == (1, 1, 512)
    assert found["times"].shape == (1, 4)
