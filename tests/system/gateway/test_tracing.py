"""Tracing when the server stops or the collector is down."""

import json

from tests.helpers.gateway import KEY, KEY_LINE, run_gateway
from tests.helpers.otlp_receiver import new_trace, receiving
from tests.helpers.servers import ROOT
from tritonclip_server.serving.tracing import TraceOptions

STEPS = {"admission", "text_encoder", "image_preprocess", "vision_encoder", "similarity"}
IMAGE = ROOT / "scripts" / "demo" / "images" / "digit_7.jpg"


def environ(receiver, **more):
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "TRITONCLIP_GATEWAY_KEYS": KEY_LINE, **more}


def classify(gateway):
    traceparent, trace, _ = new_trace()
    headers = {"key": KEY, "traceparent": traceparent}
    fields = {"images": (IMAGE.name, IMAGE.read_bytes()), "labels": "the digit 7"}
    reply = gateway.request("POST", "/v1/classify", fields=fields, headers=headers)
    assert reply.status == 200, reply.data
    return trace


def test_last_spans_of_gateway_and_server_are_exported_before_they_stop(servers, demo_repository):
    with receiving() as receiver:
        trace_options = TraceOptions(url=receiver.endpoint, service="stopping")
        with servers.run(
            demo_repository, "spans that a server exports when it stops", trace=trace_options
        ) as server:
            late = environ(receiver, OTEL_BSP_SCHEDULE_DELAY="3600000")
            with run_gateway(server.grpc_url, environ=late, key=KEY) as gateway:
                traces = [classify(gateway) for _ in range(5)]  # Triton may miss a traceparent
        names = [{span.name for span in receiver.spans_of(trace)} for trace in traces]
    assert all({"POST /v1/classify", "infer clip_zero_shot"} <= found for found in names)
    assert any({"InferRequest", *STEPS} <= found for found in names)


def test_requests_succeed_if_the_collector_is_down(servers, demo_repository):
    with receiving() as receiver:
        pass  # closes its port
    trace_options = TraceOptions(url=receiver.endpoint, service="collector down")
    with servers.run(demo_repository, "a collector that is down", trace=trace_options) as server:
        with run_gateway(server.grpc_url, environ=environ(receiver), key=KEY) as gateway:
            for _ in range(20):
                classify(gateway)
    for line in gateway.lines:
        json.loads(line)
