"""Traces of a request from its caller through the gateway and the client to each step in Triton."""

import functools
import json
from datetime import datetime, timezone

import pytest

from tests.helpers.gateway import KEY, KEY_LINE, run_gateway
from tests.helpers.otlp_receiver import is_answered, new_trace, only
from tests.helpers.servers import ROOT
from tests.helpers.variants import FAULT, TRACED_SERVICE
from tritonclip_server.serving.logs import LogParser

STEPS = {"admission", "text_encoder", "image_preprocess", "vision_encoder", "similarity"}
GATEWAY_SERVICE = "tritonclip-gateway"
LABEL = "the digit 7, which must stay private"
IMAGE = ROOT / "scripts" / "demo" / "images" / "digit_7.jpg"
pytestmark = pytest.mark.variant("traced")


@pytest.fixture(scope="module")
def environ(receiver):
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "TRITONCLIP_GATEWAY_KEYS": KEY_LINE,
    }


@pytest.fixture(scope="module")
def gateway(server, environ):
    with run_gateway(server.grpc_url, environ=environ, key=KEY) as process:
        yield process


def classify(gateway, traceparent=None, request_id="r-1", path="/v1/classify"):
    headers = {"Authorization": f"Bearer {KEY}", "X-Request-ID": request_id}
    headers |= {"traceparent": traceparent} if traceparent else {}
    image = ("images", ("secret-name.jpg", IMAGE.read_bytes()))
    fields = [image, ("labels", LABEL), ("labels", "a red circle")]
    return gateway.request("POST", path, fields=fields, headers=headers)


def answered(*arguments, **options):
    reply = classify(*arguments, **options)
    assert reply.status == 200, reply.data


def is_complete(spans):
    return is_answered(spans) and any(span.name.startswith("POST ") for span in spans)


def test_trace_leads_from_the_caller_to_each_model(receiver, gateway, server):
    spans, caller = receiver.send_traced(lambda parent: answered(gateway, parent, "r-one-trace"), is_complete)
    entry, call = only(spans, "POST /v1/classify"), only(spans, "infer clip_zero_shot")
    inside, ensemble = only(spans, "InferRequest"), only(spans, "clip_zero_shot")
    assert [span.parent for span in (entry, call, inside, ensemble)] == [
        caller,
        entry.id,
        call.id,
        inside.id,
    ]
    assert {entry.service, call.service} == {GATEWAY_SERVICE}
    assert {inside.service, ensemble.service} == {TRACED_SERVICE}
    steps = [only(spans, step) for step in STEPS]
    assert {step.parent for step in steps} == {ensemble.id}
    computing = [span.parent for span in spans if span.name == "compute"]
    assert sorted(computing) == sorted(step.id for step in steps)
    assert len(spans) == 4 + 2 * len(STEPS)
    assert not any(span.is_error for span in spans)
    assert entry.attributes["http.response.status_code"] == 200
    assert call.attributes == {
        "triton.model_name": "clip_zero_shot",
        "triton.request_id": "r-one-trace",
        "tritonclip.endpoint": f"grpc://{server.grpc_url}",
    }
    assert ensemble.attributes["triton.request_id"] == "r-one-trace"
    line = gateway.logged(request_id="r-one-trace", trace_id=entry.trace)
    assert line["span_id"] == entry.id


def test_gateway_starts_a_trace_without_traceparent(receiver, gateway):
    answered(gateway, None, "r-own")
    trace = gateway.logged(request_id="r-own")["trace_id"]
    sent = functools.partial(answered, gateway)
    receiver.send_traced(sent, is_complete)  # sent later, so the first request's spans have arrived as well
    spans = receiver.spans_of(trace)
    assert only(spans, "POST /v1/classify").parent == ""
    assert only(spans, "infer clip_zero_shot").parent == only(spans, "POST /v1/classify").id


def test_unsampled_request_leaves_no_span(receiver, gateway):
    unsampled, out, _ = new_trace(sampled=False)
    answered(gateway, unsampled, "r-out")
    receiver.send_traced(
        functools.partial(answered, gateway), is_complete
    )  # sent later, so any span of the first would have arrived
    assert not receiver.spans_of(out)
    assert not [span for span in receiver.spans if span.attributes.get("triton.request_id") == "r-out"]
    assert gateway.logged(request_id="r-out")["trace_id"] == out


def test_health_and_metrics_leave_no_span(receiver, gateway):
    quiet, out, _ = new_trace()
    for path in ("/healthz", "/readyz", "/metrics"):
        assert gateway.request("GET", path, headers={"traceparent": quiet}).status == 200
    receiver.send_traced(functools.partial(answered, gateway), is_complete)
    assert not receiver.spans_of(out)


def test_failed_request_has_error_spans_and_is_in_every_log(receiver, gateway, server):
    request_id = f"{FAULT}-of-the-gateway"
    spans, _ = receiver.send_traced(lambda parent: classify(gateway, parent, request_id), is_complete)
    entry, call = only(spans, "POST /v1/classify"), only(spans, "infer clip_zero_shot")
    assert entry.is_error and entry.attributes["http.response.status_code"] == 500
    assert call.is_error and call.attributes["error.type"] == "InferenceError"
    assert gateway.logged(request_id=request_id, trace_id=entry.trace)["status"] == 500
    lines = (line for line in server.log if "KeyError: 'planted'" in line and request_id in line)
    line = next(lines)
    found = LogParser(lambda: datetime.now(timezone.utc)).feed(line)
    logged = json.loads(found[0].json())
    assert (logged["level"], logged["request_id"]) == ("ERROR", request_id)
    assert logged["message"].startswith(f"incident {logged['incident']}, model similarity, ")


def test_invalid_image_is_an_error_of_the_inference_span_only(receiver, gateway):
    fields = [("images", ("a.jpg", b"no image")), ("labels", "a")]

    def send(traceparent):
        headers = {"Authorization": f"Bearer {KEY}", "traceparent": traceparent}
        assert gateway.request("POST", "/v1/classify", fields=fields, headers=headers).status < 500

    spans, _ = receiver.send_traced(send, is_complete)
    call = only(spans, "infer clip_zero_shot")
    assert call.is_error and call.attributes["error.type"] == "InvalidInputError"
    assert not only(spans, "POST /v1/classify").is_error


def test_spans_hold_no_content_and_no_keys(receiver, gateway):
    spans, _ = receiver.send_traced(
        lambda parent: answered(gateway, parent, path=f"/v1/classify?key={KEY}"), is_complete
    )
    assert only(spans, "POST /v1/classify").attributes["url.query"] == "REDACTED"
    start = IMAGE.read_bytes()[:64]
    for body in receiver.bodies:
        for secret in (KEY.encode(), LABEL.encode(), b"must stay private", b"secret-name", start):
            assert secret not in body


def test_last_spans_are_exported_before_shutdown(receiver, server, environ):
    traceparent, trace, _ = new_trace()
    late = environ | {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    with run_gateway(server.grpc_url, environ=late, key=KEY) as gateway:
        answered(gateway, traceparent)
        assert not [span for span in receiver.spans_of(trace) if span.service == GATEWAY_SERVICE]
    names = {span.name for span in receiver.spans_of(trace) if span.service == GATEWAY_SERVICE}
    assert names == {"POST /v1/classify", "infer clip_zero_shot"}


def test_sampler_from_the_environment_is_used_and_text_log_holds_trace_ids(
    receiver, gateway, server, environ
):
    traceparent, trace, _ = new_trace()
    environ = environ | {"OTEL_TRACES_SAMPLER": "always_off"}
    with run_gateway(server.grpc_url, "--log-format", "text", environ=environ, key=KEY) as silent:
        answered(silent, traceparent, "r-text")
    receiver.send_traced(functools.partial(answered, gateway), is_complete)  # sent later
    assert not receiver.spans_of(trace)
    (line,) = [line for line in silent.lines if "r-text" in line]
    assert 'INFO request request_id="r-text" method="POST" path="/v1/classify" status=200' in line
    assert f'trace_id="{trace}"' in line


def test_tracing_is_off_by_default(receiver, server):
    traceparent, trace, _ = new_trace()
    with run_gateway(server.grpc_url, environ={"TRITONCLIP_GATEWAY_KEYS": KEY_LINE}, key=KEY) as plain:
        answered(plain, traceparent, "r-plain")
        assert "trace_id" not in plain.logged(request_id="r-plain")
    assert not receiver.spans_of(trace)


def test_no_trace_switches_tracing_off(receiver, server, environ):
    traceparent, trace, _ = new_trace()
    with run_gateway(server.grpc_url, "--no-trace", environ=environ, key=KEY) as plain:
        answered(plain, traceparent)
    assert not receiver.spans_of(trace)
