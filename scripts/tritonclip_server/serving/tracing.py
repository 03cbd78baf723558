"""Options for Triton's traces: it sends spans to an OpenTelemetry collector, as JSON over OTLP/HTTP.

Triton 2.51 traces every request with a trace context (`traceparent`) and ignores the sampling flag in it.
The client package sends a trace context only if the trace is sampled. So the caller decides about its own
requests, and `rate` applies to all others. Triton reads OTEL_EXPORTER_OTLP_HEADERS itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from tritonclip_server.serving.release import Release

SERVICE = "tritonclip"
FIRST_STABLE = Release(2, 58)  # 25.05
"""First release that does not free a trace's mutex while it is held.

Source: pull request 8144 of Triton's server.
"""
NEVER = 2**31 - 1
"""Rate that disables sampling: Triton accepts no rate of 0."""
EXPORT_DELAY_S = 1.0
"""Interval at which Triton sends its spans, in seconds. Its default of 5 s would delay a stop."""
EXPORT_S = 0.5
"""Time to send the spans, in seconds."""
QUEUED_SPANS = 16384
"""Size of Triton's queue, about 20 MB. A request of `clip_zero_shot` has 12 spans."""


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """Destination and sampling of the server's spans.

    Attributes:
        url: URL of the collector; the path `/v1/traces` is added if it has none.
        rate: Sample one in this many requests that arrive without a trace context; 0 disables sampling.
        service: Name of the service in the spans.

    Raises:
        ValueError: If the URL or the rate is malformed.
    """

    url: str
    rate: int = 0
    service: str = SERVICE

    def __post_init__(self) -> None:
        """Check the values."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"trace URL {self.url!r}: expected a URL such as 'http://localhost:4318'")
        if not 0 <= self.rate <= NEVER:
            raise ValueError(f"trace rate {self.rate}: expected 0 to {NEVER}")

    @property
    def export_timeout_s(self) -> float:
        """Time that a drained server needs to send its last spans, in seconds."""
        return EXPORT_DELAY_S + EXPORT_S

    def arguments(self) -> list[str]:
        """Return the arguments of `tritonserver`."""
        url = self.url if urlsplit(self.url).path.strip("/") else f"{self.url.rstrip('/')}/v1/traces"
        settings = [
            "mode=opentelemetry",
            "level=TIMESTAMPS",
            f"rate={self.rate or NEVER}",
            f"opentelemetry,url={url}",
            f"opentelemetry,resource=service.name={self.service}",
            f"opentelemetry,bsp_schedule_delay={int(EXPORT_DELAY_S * 1000)}",
            f"opentelemetry,bsp_max_queue_size={QUEUED_SPANS}",
        ]
        return [f"--trace-config={setting}" for setting in settings]


def trace_options(url: str | None, rate: int, environ: Mapping[str, str]) -> TraceOptions | None:
    """Return the trace options of a command, or None if there is nowhere to send spans.

    Args:
        url: URL of the collector; OpenTelemetry's environment variables apply if it is None.
        rate: See `TraceOptions`.
        environ: The environment.

    Raises:
        ValueError: The URL or the rate is malformed.
    """
    url = (
        url or environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    if not url or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    return TraceOptions(url=url, rate=rate, service=environ.get("OTEL_SERVICE_NAME") or SERVICE)


def trace_warning(release: Release) -> str | None:
    """Return the warning about traces with a release, or None."""
    if release >= FIRST_STABLE:
        return None
    return (
        f"traces: Triton {release} may crash after a few thousand traced requests; "
        f"sample fewer, or run {FIRST_STABLE} or later"
    )
