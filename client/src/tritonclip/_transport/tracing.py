"""Spans of OpenTelemetry for inferences: one for each, below the caller's own span, and told to Triton.

Nothing happens, and nothing is imported, unless the caller's program uses OpenTelemetry and has a sampled
span around the call. A call that is not sampled tells Triton nothing: 2.51 traces every request that names a
trace. Spans hold names, counts and types of errors; no content, no keys, no texts of errors, which may quote.
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
def traced(model: Model | None, request: Request, endpoint: str) -> Iterator[Request]:
    """Trace what the block sends.

    Args:
        model: What is asked for an inference; None: what is sent is no inference, and has no span.
        request: Of the call.
        endpoint: The servers.

    Yields:
        The request to send: with the span's `traceparent` among its headers, unless the caller gave one.
    """
    if model is None or not _is_sampled():
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
        TraceContextTextMapPropagator().inject(headers)  # the only form that Triton reads
        try:
            yield replace(request, headers={**headers, **request.headers}, on_retry=_retries(span))
        except BaseException as error:  # a cancelled task's too
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR))
            raise


def current_ids() -> dict[str, str]:
    """The current span's `trace_id` and `span_id` in hexadecimal digits; nothing where there is none."""
    trace = sys.modules.get("opentelemetry.trace")
    context = trace.get_current_span().get_span_context() if trace else None
    if context is None or not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def _is_sampled() -> bool:
    """Whether a sampled span is current; a program that has not imported OpenTelemetry has none."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return False
    context = trace.get_current_span().get_span_context()
    return bool(context.is_valid and context.trace_flags.sampled)


def _attributes(model: Model, request: Request, endpoint: str) -> dict[str, str]:
    """Named as Triton names those of its own spans, where it has them."""
    attributes = {"triton.model_name": model.name, "tritonclip.endpoint": endpoint}
    if request.request_id:
        attributes["triton.request_id"] = request.request_id
    return attributes


def _retries(span: Span) -> Any:
    """What tenacity is to call before each further try."""

    def note(state: Any) -> None:
        error = state.outcome.exception()
        span.add_event("retry", {"failed_attempts": state.attempt_number, "error.type": type(error).__name__})

    return note
