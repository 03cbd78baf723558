"""OpenTelemetry spans: one per inference, a child of the caller's span, propagated to Triton.

Nothing happens and nothing is imported unless the caller's program uses OpenTelemetry and has a sampled span
around the call. No trace context is sent for a call that is not sampled, because Triton 2.51 traces every
request with a trace context. Spans hold names, counts and error types. They hold no content, no keys, and no
error texts, which may quote content.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tritonclip._calls.request import Request
from tritonclip._calls.wire import Model

if TYPE_CHECKING:
    from opentelemetry.trace import Span


@contextmanager
def traced(model: Model, request: Request, endpoint: str) -> Iterator[Request]:
    """Trace the inference that the block sends.

    Args:
        model: The model that is called.
        request: The call's request.
        endpoint: The servers.

    Yields:
        The request to send. Its headers include the span's `traceparent`, unless the caller gave one.
    """
    if not _is_sampled():
        yield request
        return
    from opentelemetry import trace
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    span: Span
    with trace.get_tracer("tritonclip").start_as_current_span(
        f"infer {model.name}",
        kind=SpanKind.CLIENT,
        attributes=_attributes(model, request, endpoint),
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        headers: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(headers)  # the only format that Triton reads
        try:
            yield replace(request, headers={**headers, **request.headers}, on_retry=_retries(span))
        except BaseException as error:  # includes a task's cancellation
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR))
            raise


def current_ids() -> dict[str, str]:
    """Return the current span's `trace_id` and `span_id` in hexadecimal; empty if there is none."""
    trace = sys.modules.get("opentelemetry.trace")
    context = trace.get_current_span().get_span_context() if trace else None
    if context is None or not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _is_sampled() -> bool:
    """Return True if the current span is sampled; a program without OpenTelemetry has none."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return False
    context = trace.get_current_span().get_span_context()
    return bool(context.is_valid and context.trace_flags.sampled)


def _attributes(model: Model, request: Request, endpoint: str) -> dict[str, str]:
    """Return the span's attributes, with the names of Triton's own spans if it has them."""
    attributes = {"triton.model_name": model.name, "tritonclip.endpoint": endpoint}
    if request.request_id:
        attributes["triton.request_id"] = request.request_id
    return attributes


def _retries(span: Span) -> Any:
    """Return the function that tenacity calls before each retry."""

    def note(state: Any) -> None:
        error = state.outcome.exception()
        span.add_event("retry", {"failed_attempts": state.attempt_number, "error.type": type(error).__name__})

    return note
