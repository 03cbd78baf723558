"""OpenTelemetry traces of the gateway: one span per request from FastAPI, exported by OTLP over HTTP.

A request with a sampled `traceparent` continues its caller's trace. The standard `OTEL_*` variables set the
endpoint, the sampler and the service name.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, MutableMapping
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace

from tritonclip.errors import MissingExtraError, install_command
from tritonclip.gateway.observability.middleware import QUIET

SERVICE = "tritonclip-gateway"
FLUSH_S = 5.0
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def _is_quiet(scope: MutableMapping[str, Any]) -> bool:
    return scope.get("path", "").removeprefix(scope.get("root_path", "")) in QUIET


TELEMETRY: TelemetryConfig = {"metrics": False, "logs": False, "operation_spans": False, "exclude": _is_quiet}
"""FastAPI's tracing options. Without a tracer provider, FastAPI does nothing."""


def is_configured(environ: Mapping[str, str]) -> bool:
    """Return True if the environment names an endpoint for traces."""
    wanted = any(environ.get(name) for name in ENDPOINTS)
    return wanted and environ.get("OTEL_TRACES_EXPORTER", "otlp") != "none"


def start_tracing() -> None:
    """Set the process's tracer provider, which exports spans by OTLP over HTTP.

    Raises:
        MissingExtraError: If the extra `tracing` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingExtraError(
            f"tracing needs {error.name}; install it with: {install_command('tracing')}"
        ) from error
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # no OTEL_* variable names it
        resource = resource.merge(Resource({SERVICE_NAME: SERVICE}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def flush() -> None:
    """Export pending spans, for at most `FLUSH_S` seconds."""
    send = getattr(trace.get_tracer_provider(), "force_flush", None)
    if send is not None:
        # In a thread, because an unreachable collector must not delay shutdown.
        worker = threading.Thread(target=send, daemon=True)
        worker.start()
        worker.join(FLUSH_S)
