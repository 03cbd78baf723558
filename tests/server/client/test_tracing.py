"""OpenTelemetry spans of the client's inferences and their propagation to Triton, for all four clients."""

import asyncio
import contextlib
import socket

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import tritonclip
from tests.helpers.otlp_receiver import is_answered, new_trace, only
from tests.helpers.servers import run_python
from tests.helpers.variants import FAULT
from tests.helpers.waiting import wait_until
from tritonclip.errors import InferenceError, InvalidInputError, ServerUnavailableError

IMAGE = "scripts/demo/images/digit_7.jpg"
LABELS = ["the digit 7", "a red circle"]
WAYS = [(protocol, kind) for protocol in ("grpc", "http") for kind in ("Client", "AsyncClient")]
all_ways = pytest.mark.parametrize("way", WAYS, ids="-".join)
both_kinds = pytest.mark.parametrize("way", [WAYS[0], WAYS[3]], ids="-".join)

pytestmark = pytest.mark.variant("traced")


@pytest.fixture(scope="session")
def exporter():
    """The exporter of the process's only provider, which cannot be set twice in a run."""
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    trace.set_tracer_provider(provider)
    return found


@pytest.fixture
def spans(exporter):
    exporter.clear()
    return exporter


@pytest.fixture
def call(server, way):
    """A function that calls a method of a client, with or without asyncio, over gRPC or HTTP."""
    protocol, kind = way
    url = server.grpc_url if protocol == "grpc" else f"http://{server.http_url}"
    return lambda method, *arguments, **options: calling(kind, url, method, *arguments, **options)


def calling(kind, url, method, *arguments, attempts=3, **options):
    if kind == "Client":
        with tritonclip.Client(url, attempts=attempts) as client:
            return getattr(client, method)(*arguments, **options)

    async def run():
        async with tritonclip.AsyncClient(url, attempts=attempts) as client:
            return await getattr(client, method)(*arguments, **options)

    return asyncio.run(run())


def within(traceparent):
    """Return the context of a caller with this trace."""
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent})


def here(traceparent):
    """Start a current span in a caller's trace."""
    return trace.get_tracer("test").start_as_current_span("here", context=within(traceparent))


@all_ways
def test_inference_span_is_the_parent_of_tritons_spans(call, spans, receiver):
    def send(traceparent):
        with here(traceparent):
            call("classify", IMAGE, LABELS, request_id="r-7")

    received, _ = receiver.send_traced(send, is_answered)
    inference, outer = (
        span for span in spans.get_finished_spans() if f"{span.context.trace_id:032x}" == received[0].trace
    )
    assert (inference.name, inference.kind) == ("infer clip_zero_shot", SpanKind.CLIENT)
    assert inference.parent.span_id == outer.context.span_id
    assert inference.attributes["triton.model_name"] == "clip_zero_shot"
    assert inference.attributes["triton.request_id"] == "r-7"
    assert inference.status.status_code is StatusCode.UNSET and not inference.events
    assert only(received, "InferRequest").parent == f"{inference.context.span_id:016x}"


@both_kinds
def test_span_of_a_failed_inference_holds_only_the_error_type(call, spans, receiver):
    for wanted, arguments, options in (
        (InferenceError, (IMAGE, LABELS), {"request_id": f"{FAULT}-c"}),
        (InvalidInputError, (b"no image", LABELS), {}),
    ):
        spans.clear()
        with here(new_trace()[0]), pytest.raises(wanted):
            call("classify", *arguments, **options)
        inference = spans.get_finished_spans()[0]
        assert inference.attributes["error.type"] == wanted.__name__
        assert inference.status.status_code is StatusCode.ERROR
        assert not inference.status.description and not inference.events


@both_kinds
def test_retries_are_span_events(way, spans, monkeypatch):
    monkeypatch.setattr("tritonclip._retry.FIRST_WAIT_S", 0.001)
    protocol, kind = way
    with socket.socket() as bound:  # without a listener
        bound.bind(("127.0.0.1", 0))
        url = f"{protocol}://127.0.0.1:{bound.getsockname()[1]}"
        with here(new_trace()[0]), pytest.raises(ServerUnavailableError):
            calling(kind, url, "embed_texts", LABELS)
    (event, second), inference = spans.get_finished_spans()[0].events, spans.get_finished_spans()[0]
    assert (event.name, dict(event.attributes)) == (
        "retry",
        {"failed_attempts": 1, "error.type": "ServerUnavailableError"},
    )
    assert second.attributes["failed_attempts"] == 2
    assert inference.status.status_code is StatusCode.ERROR


@all_ways
def test_no_trace_context_is_sent_without_a_sampled_span(call, way, spans, receiver):
    ids = {f"r-{kind}-{'-'.join(way)}" for kind in ("none", "unsampled")}
    unsampled, out, _ = new_trace(sampled=False)
    for request_id, context in zip(sorted(ids), (contextlib.nullcontext(), here(unsampled)), strict=True):
        with context:
            call("embed_texts", LABELS, request_id=request_id)
    assert not spans.get_finished_spans()

    def send(traceparent):
        with here(traceparent):
            call("embed_texts", LABELS)

    receiver.send_traced(send, is_answered)  # by now spans of the other calls would have arrived
    assert not receiver.spans_of(out)
    received = {span.attributes.get("triton.request_id") for span in receiver.spans}
    assert not received & ids


@both_kinds
def test_traceparent_header_of_the_caller_is_sent_unchanged(call, spans, receiver):
    def send(traceparent):
        with here(new_trace()[0]):
            call("embed_texts", LABELS, headers={"traceparent": traceparent})

    received, mine = receiver.send_traced(send, is_answered)
    assert only(received, "InferRequest").parent == mine


@both_kinds
def test_only_inferences_have_spans(call, spans):
    with here(new_trace()[0]):
        call("health")
    assert [span.name for span in spans.get_finished_spans()] == ["here"]


def test_requests_of_a_bulk_run_are_children_of_the_callers_span(server, spans):
    with here(new_trace()[0]) as outer, tritonclip.Client(server.grpc_url) as client:
        list(client.embed_images_many([IMAGE] * 6, batch_size=2))
    inferences = [span for span in spans.get_finished_spans() if span.name.startswith("infer ")]
    assert len(inferences) == 3
    assert {span.parent.span_id for span in inferences} == {outer.get_span_context().span_id}


@pytest.mark.variant("overload")
def test_span_of_a_cancelled_call_is_an_error(server, gate, spans):
    async def run():
        async with tritonclip.AsyncClient(server.grpc_url) as client:
            with here(new_trace()[0]):
                task = asyncio.create_task(client.embed_images(IMAGE))
                await asyncio.to_thread(gate.wait_until_it_holds)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    with gate.closed():
        asyncio.run(run())
    inferences = [span for span in spans.get_finished_spans() if span.name.startswith("infer ")]
    assert [span.attributes["error.type"] for span in inferences] == ["CancelledError"]


def test_opentelemetry_is_imported_for_a_trace_only_and_without_its_sdk(server, receiver):
    code = f"""
import sys
import tritonclip
with tritonclip.Client({server.grpc_url!r}) as client:
    client.embed_texts(["a"])
    assert not [name for name in sys.modules if name.startswith("opentelemetry")]
    sys.modules["opentelemetry.sdk"] = None
    from opentelemetry import context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    for parent in sys.argv[1:]:
        context.attach(TraceContextTextMapPropagator().extract({{"traceparent": parent}}))
        client.embed_texts(["a"])
"""
    # Triton misses about one trace context in 50.
    traces = [new_trace() for _ in range(5)]
    run_python(code, *(traceparent for traceparent, _, _ in traces)).check_returncode()

    def received():
        return [(receiver.spans_of(trace), parent) for _, trace, parent in traces if receiver.spans_of(trace)]

    wait_until(lambda: any(is_answered(spans) for spans, _ in received()), "no spans arrived")
    spans, parent = next((spans, parent) for spans, parent in received() if is_answered(spans))
    assert only(spans, "InferRequest").parent == parent
