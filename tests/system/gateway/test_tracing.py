"""Traces while the collector is down, and of a gateway and a server that stop."""

import json

import pytest

from tests.helpers.gateway import KEY, KEY_LINE, run_gateway
from tests.helpers.otlp_receiver import new_trace, receiving
from tests.helpers.servers import DEMO_CHECKPOINT, ROOT
from tests.helpers.variants import UNCOMPILED
from tritonclip_server.serving.tracing import TraceOptions

STEPS = {"admission", "text_encoder", "image_preprocess", "vision_encoder", "similarity"}
IMAGE = ROOT / "scripts" / "demo" / "images" / "digit_7.jpg"


def classify(gateway):
    traceparent, trace, _ = new_trace()
    headers = {"key": KEY, "traceparent": traceparent}
    fields = {"images": (IMAGE.name, IMAGE.read_bytes()), "labels": "the digit 7"}
    reply = gateway.request("POST", "/v1/classify", fields=fields, headers=headers)
    assert reply.status == 200, reply.data
    return trace


@pytest.fixture(scope="module")
def repository(prepare):
    return prepare(DEMO_CHECKPOINT, "--precision", "float32", *UNCOMPILED)


@pytest.mark.slow
def test_last_spans_arrive_before_gateway_and_server_stop_also_after_an_outage(servers, repository):
    with receiving() as receiver:
        endpoint = receiver.endpoint
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "TRITONCLIP_GATEWAY_KEYS": KEY_LINE}
    trace = TraceOptions(url=endpoint, service="triton")
    with servers.run(repository, "spans without a collector, and at the end", trace=trace) as server:
        with run_gateway(server.grpc_url, environ=environ, key=KEY) as gateway:
            for _ in range(20):
                classify(gateway)
        for line in gateway.lines:
            json.loads(line)
        with receiving(int(endpoint.rpartition(":")[2])) as receiver:
            late = environ | {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}
            with run_gateway(server.grpc_url, environ=late, key=KEY) as gateway:
                traces = [classify(gateway) for _ in range(5)]  # Triton may miss a traceparent
            server.stop()
            names = [{span.name for span in receiver.spans_of(trace)} for trace in traces]
    assert all({"POST /v1/classify", "infer clip_zero_shot"} <= found for found in names)
    assert any({"InferRequest", *STEPS} <= found for found in names)
