"""OpenTelemetry for the gateway: a span for each request, by FastAPI's own support, sent by OTLP over HTTP.

A request that comes with `traceparent` goes on in its caller's trace, if that is sampled. The standard
variables `OTEL_*` say where spans go, how many, and the service's name.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, MutableMapping
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace

from tritonclip.errors import MissingExtraError
from tritonclip.gateway._observe import QUIET

SERVICE = "tritonclip-gateway"
FLUSH_S = 5.0
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def _is_quiet(scope: MutableMapping[str, Any]) -> bool:
    return scope.get("path", "").removeprefix(scope.get("root_path", "")) in QUIET


TELEMETRY: TelemetryConfig = {"metrics": False, "logs": False, "operation_spans": False, "exclude": _is_quiet}
"""What FastAPI is to do where a provider is set; it does nothing where there is none."""


def is_asked_for(environ: Mapping[str, str]) -> bool:
    """Whether the environment says where traces go."""
    wanted = any(environ.get(name) for name in ENDPOINTS)
    return wanted and environ.get("OTEL_TRACES_EXPORTER", "otlp") != "none"


def start_tracing() -> None:
    """Set the process's provider of spans, which sends them by OTLP over HTTP.

    Raises:
        MissingExtraError: If the packages of the extra are not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingExtraError(
            f'tracing needs {error.name}; install it with: pip install "tritonclip[tracing]"'
        ) from error
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # neither variable names it
        resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def flush() -> None:
    """Send what is waiting, for a few seconds at most."""
    send = getattr(trace.get_tracer_provider(), "force_flush", None)
    if send is not None:
        worker = threading.Thread(target=send, daemon=True)  # an unreachable receiver must not hold up a stop
        worker.start()
        worker.join(FLUSH_S)
