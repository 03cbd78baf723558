"""Responses and metrics of a dynamic batch with valid, invalid, late and failing requests."""

import json
import re
import threading

import numpy as np
import pytest

from clip_common.groups import DEFERRED, RequestError
from clip_common.metrics import MetricFactory, publish_model_info
from clip_common.responder import MAX_REQUEST_ID, Responder
from clip_common.times import UNLIMITED, RejectedError, Times, now_us
from tests.unit.models.python_backend import Backend, Request

ARGS = {
    "model_name": "m",
    "model_version": "3",
    "model_instance_name": "m_0_1",
    "model_instance_kind": "CPU",
    "model_instance_device_id": "0",
}
LABELS = {"model": "m", "version": "3", "instance": "m_0_1", "device": "cpu"}


@pytest.fixture
def backend():
    return Backend()


@pytest.fixture
def respond(backend):
    """Return a function that responds to a batch and then publishes all metrics."""

    def _respond(requests, parse, run, largest=None, **options):
        responder = Responder(backend, MetricFactory(backend, ARGS), **options)
        responses = responder.respond(requests, parse, run, largest)
        responder.close()
        return responses

    return _respond


def parse(request):
    """Return the numbers of a request, or raise what its name asks for."""
    if request.name == "invalid":
        raise RequestError("image 0 is empty")
    if request.name in ("overload", "deadline"):
        raise RejectedError(request.name, f"{request.name}: too late")
    return request.tensors["numbers"]


def double(groups):
    if any((group < 0).any() for group in groups):
        raise ZeroDivisionError("a secret")
    return [{"doubled": 2 * group} for group in groups]


def request(*numbers, name=""):
    return Request({"numbers": np.array([numbers])}, name)


def test_each_request_gets_its_own_response(respond):
    requests = [request(1, 2), request(0, name="invalid"), request(0, name="overload"), request(3)]
    first, invalid, rejected, last = respond(requests, parse, double)
    assert [(tensor.name, tensor.array.tolist()) for tensor in first.output_tensors] == [
        ("doubled", [[2, 4]])
    ]
    assert last.output_tensors[0].array.tolist() == [[6]]
    assert invalid.error == ("image 0 is empty", "INVALID_ARG")
    assert rejected.error == ("overload: too late", "UNAVAILABLE")


def test_unexpected_error_fails_one_request_and_is_logged_under_an_incident(respond, backend):
    name = 'a "name"\n' + "x" * 500
    good, bad = respond([request(1), request(-1, name=name)], parse, double)
    assert good.output_tensors[0].array.tolist() == [[2]]
    assert bad.error.code == "INTERNAL"
    incident = re.fullmatch(r"internal error, incident (\w{8}): .*", bad.error.message)[1]
    (line,) = backend.log
    assert line.startswith(
        f"error: incident {incident}, model m, request {json.dumps(name[:MAX_REQUEST_ID])}: "
    )
    assert "ZeroDivisionError: a secret" in line
    assert "secret" not in bad.error.message


def test_batch_without_valid_requests_runs_nothing(respond):
    (response,) = respond([request(0, name="invalid")], parse, lambda groups: pytest.fail("ran"))
    assert response.error.code == "INVALID_ARG"


def test_metrics_count_requests_elements_and_rejections(respond, backend):
    requests = [request(1, 2, 3), *(request(0, name=name) for name in ("overload", "overload", "deadline"))]
    respond([*requests, request(4)], parse, double, unit="images")
    assert backend.values("tritonclip_batch_requests") == [5]
    assert backend.values("tritonclip_batch_size") == backend.values("tritonclip_images_total") == [4]
    assert len(backend.values("tritonclip_batch_seconds")) == 1
    assert backend.values("tritonclip_requests_executing") == [0]
    refused = {
        reason: backend.values("tritonclip_requests_refused_total", reason=reason)
        for reason in ("overload", "deadline", "draining")
    }
    assert refused == {"overload": [2], "deadline": [1], "draining": []}
    kinds = {name: family.kind for name, family in backend.families.items()}
    assert kinds["tritonclip_images_total"] == kinds["tritonclip_requests_refused_total"] == "counter"
    assert kinds["tritonclip_batch_size"] == kinds["tritonclip_batch_seconds"] == "histogram"
    assert all(
        series.labels.items() >= LABELS.items()
        for family in backend.families.values()
        for series in family.series
    )


def test_failed_batch_counts_no_elements(respond, backend):
    respond([request(-1)], parse, double, unit="labels")
    assert backend.values("tritonclip_batch_requests") == [1]
    assert backend.values("tritonclip_batch_size") == backend.values("tritonclip_labels_total") == []


def test_executing_requests_are_published_while_the_batch_runs(respond, backend):
    seen = []

    def run(groups):
        seen.append(backend.values("tritonclip_requests_executing"))
        return double(groups)

    respond([request(1), request(2)], parse, run)
    assert seen == [[2]]


def test_only_a_rise_of_the_executing_requests_is_published_before_the_answer(backend):
    factory = MetricFactory(backend, ARGS)
    factory.close()  # its thread: nothing but this test publishes
    responder = Responder(backend, factory, unit="images")
    responder.respond([request(1), request(2)], parse, double)
    assert backend.values("tritonclip_requests_executing") == [2]
    responder.respond([request(1), request(0, name="deadline")], parse, double)
    assert backend.values("tritonclip_requests_executing") == [2]
    assert backend.values("tritonclip_batch_requests") == backend.values("tritonclip_images_total") == []
    assert backend.values("tritonclip_requests_refused_total", reason="deadline") == []
    factory.publish()
    assert backend.values("tritonclip_requests_executing") == [0]
    assert backend.values("tritonclip_batch_requests") == [2, 2]
    assert backend.values("tritonclip_images_total") == [3]
    assert backend.values("tritonclip_requests_refused_total", reason="deadline") == [1]


def test_threads_never_update_a_series_at_once(backend):
    factory = MetricFactory(backend, ARGS)
    counter, gauge = factory.counter("calls_total", "Calls"), factory.gauge("level", "Level")

    def update():
        for level in range(300):
            counter.increment(1)
            gauge.set_now(level)
            factory.publish()

    threads = [threading.Thread(target=update) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    factory.close()
    assert backend.values("tritonclip_calls_total") == [1200]
    assert not backend.collisions


def test_model_without_batch_metrics_publishes_rejections_only(respond, backend):
    respond([request(1), request(0, name="deadline")], parse, double, batches=False)
    assert "tritonclip_requests_executing" not in backend.families
    assert backend.values("tritonclip_batch_requests") == []
    assert backend.values("tritonclip_requests_refused_total", reason="deadline") == [1]


def test_times_of_a_request_are_read_and_checked(backend):
    responder = Responder(backend, MetricFactory(backend, ARGS))
    now = now_us()
    in_time, late = Times(now - 2, 2**60, now + 10**9), Times(now - 9, 1, now - 1)
    assert responder.check_times(Request({"times": in_time.tensor(2)})) == in_time
    assert responder.check_times(Request({})) == UNLIMITED
    assert responder.times(Request({"times": late.tensor(1)})) == late
    with pytest.raises(RejectedError, match="^deadline passed: "):
        responder.check_times(Request({"times": late.tensor(1)}))
    with pytest.raises(RequestError, match="^times: no step of an ensemble made these numbers"):
        responder.check_times(Request({"times": np.array([[1, 1, 2**61, 1, 0, 0]])}))
    responder.close()


def test_model_info_has_the_facts_as_labels_and_in_the_log(backend, tmp_path):
    checkpoint = {"source": "demo", "revision": "r1", "sha256": "f00", "random": False}
    (tmp_path / "manifest.json").write_text(json.dumps({"identity": "1d", "checkpoint": checkpoint}))
    factory = MetricFactory(backend, ARGS)
    publish_model_info(factory, backend.Logger, tmp_path, precision="float32", execution="eager")
    (series,) = backend.families["tritonclip_model_info"].series
    facts = {"identity": "1d", "checkpoint": "demo", "revision": "r1", "sha256": "f00"}
    assert series.labels == LABELS | facts | {"precision": "float32", "execution": "eager"}
    assert series.values == [1]
    assert backend.log == [
        "info: serving model=m, version=3, instance=m_0_1, device=cpu, identity=1d, checkpoint=demo, "
        "revision=r1, sha256=f00, precision=float32, execution=eager"
    ]


def test_deferred_request_is_answered_later_and_counts_as_executing_until_then(backend):
    factory = MetricFactory(backend, ARGS)
    responder = Responder(backend, factory, unit="images")
    later = []

    def run(groups):
        later.append(responder.defer(slow))
        return [DEFERRED, *double(groups[1:])]

    slow, quick = Request({"numbers": np.array([[1, 2]])}, "slow", []), request(3)
    first, second = responder.respond([slow, quick], parse, run)
    assert first is None
    assert second.output_tensors[0].array.tolist() == [[6]]
    factory.publish()
    assert backend.values("tritonclip_requests_executing") == [1]
    later[0]({"doubled": np.array([[2, 4]])})
    ((response, flags),) = slow.sent
    assert flags == backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    assert response.output_tensors[0].array.tolist() == [[2, 4]]
    responder.close()
    assert backend.values("tritonclip_requests_executing") == [0]
    assert backend.values("tritonclip_images_total") == [3]
    assert sorted(backend.values("tritonclip_batch_requests")) == [1, 2]


def test_deferred_request_that_fails_or_is_rejected_gets_the_error(backend):
    responder = Responder(backend, MetricFactory(backend, ARGS))
    failed, rejected = (Request({}, name, []) for name in ("failed", "rejected"))
    responder.defer(failed)(ZeroDivisionError("a secret"))
    responder.defer(rejected)(RejectedError("deadline", "deadline cannot be met: too late"))
    assert failed.sent[0][0].error.code == "INTERNAL"
    assert "a secret" not in failed.sent[0][0].error.message
    assert any("a secret" in line and 'request "failed"' in line for line in backend.log)
    assert rejected.sent[0][0].error == ("deadline cannot be met: too late", "UNAVAILABLE")
    responder.close()
    assert backend.values("tritonclip_requests_refused_total", reason="deadline") == [1]


def test_instances_of_one_name_on_two_gpus_have_different_series():
    devices = []
    for device in "01":
        on_gpu = ARGS | {"model_instance_kind": "GPU", "model_instance_device_id": device}
        factory = MetricFactory(Backend(), on_gpu)
        factory.close()
        devices.append(factory.labels)
    assert [labels["device"] for labels in devices] == ["gpu0", "gpu1"]
    assert devices[0]["instance"] == devices[1]["instance"]


@pytest.mark.parametrize(
    ("largest", "calls"),
    [(None, [[2, 2, 3, 1]]), (5, [[2, 2], [3, 1]]), (1, [[2], [2], [3], [1]]), (8, [[2, 2, 3, 1]])],
)
def test_large_batch_runs_in_parts_and_every_part_is_answered_before_the_next(respond, largest, calls):
    ran, sent = [], [[] for _ in range(5)]

    def run(groups):
        answered_before = sum(map(len, sent))
        assert answered_before == sum(map(len, ran))
        ran.append([group.size for group in groups])
        return double(groups)

    counts = [2, 2, 3, 1]
    requests = [request(*range(count))._replace(sent=box) for count, box in zip(counts, sent, strict=False)]
    requests.insert(1, request(0, name="invalid")._replace(sent=sent[4]))
    responses = respond(requests, parse, run, largest)
    assert ran == calls
    assert responses.pop(1).error.code == "INVALID_ARG"
    for count, response, box in zip(counts, responses, sent, strict=False):
        (one,) = [response] if response else [answer for answer, _ in box]
        assert one.output_tensors[0].array.tolist() == [[2 * number for number in range(count)]]


def test_request_of_a_part_that_run_defers_is_answered_once(backend):
    first, second, third = (request(number)._replace(sent=[]) for number in range(3))
    responder = Responder(backend, MetricFactory(backend, ARGS))
    later = []

    def run(groups):
        if groups[0] is first.tensors["numbers"]:
            later.append(responder.defer(first))
            return [DEFERRED]
        return double(groups)

    responses = responder.respond([first, second, third], parse, run, largest=1)
    assert responses[:2] == [None, None]
    assert [len(one.sent) for one in (first, second, third)] == [0, 1, 0]
    later[0]({"doubled": np.array([[0]])})
    responder.close()
    ((answer, _),) = first.sent
    assert answer.output_tensors[0].array.tolist() == [[0]]


def test_failure_in_a_part_fails_only_its_request(respond):
    boxes = [[], [], []]
    numbers = (1, -1, 3)
    requests = [request(number)._replace(sent=box) for number, box in zip(numbers, boxes, strict=True)]
    last = respond(requests, parse, double, 2)[2]
    assert boxes[0][0][0].output_tensors[0].array.tolist() == [[2]]
    assert boxes[1][0][0].error.code == "INTERNAL"
    assert last.output_tensors[0].array.tolist() == [[6]]
