"""Traces of the server: Triton sends its spans to an OpenTelemetry collector, as JSON over OTLP/HTTP.

Triton 2.51 traces each request that names a trace (`traceparent`), whatever its flag for sampling says; the
client package names one only where it is sampled. So who calls decides, and `rate` is about all others.
Triton reads OTEL_EXPORTER_OTLP_HEADERS itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from tritonclip_server.serving.release import Release

SERVICE = "tritonclip"
FIRST_STABLE = Release(2, 58)  # 25.05
"""Before, a trace's mutex is freed while it is held. Source: pull request 8144 of Triton's server."""
NEVER = 2**31 - 1
"""Triton's rate cannot be 0; one in so many requests is none."""
EXPORT_DELAY_S = 1.0
"""Triton sends what it has at this interval; its own is 5 s, which is long to wait for at a stop."""
EXPORT_S = 0.5
"""What sending may take."""
QUEUED_SPANS = 16384
"""Within Triton: about 20 MB. A request of `clip_zero_shot` has 12."""


@dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """Where spans go, and what of.

    Attributes:
        url: Of the collector; the path `/v1/traces` is added where there is none.
        rate: Of requests that come without a trace, one in so many gets one of its own; 0: none.
        service: The service's name in the spans.

    Raises:
        ValueError: If the URL or the rate is malformed.
    """

    url: str
    rate: int = 0
    service: str = SERVICE

    def __post_init__(self) -> None:
        """Checks the values."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"trace URL {self.url!r}: expected one as 'http://localhost:4318'")
        if not 0 <= self.rate <= NEVER:
            raise ValueError(f"trace rate {self.rate}: expected 0 to {NEVER}")

    @property
    def stop_s(self) -> float:
        """How long a server that has nothing left to do must live on for its last spans to be sent."""
        return EXPORT_DELAY_S + EXPORT_S

    def arguments(self) -> list[str]:
        """What `tritonserver` is told."""
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
    """The options of a command; OpenTelemetry's variables count where no URL is given. None: no traces."""
    url = (
        url or environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    if not url or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    return TraceOptions(url=url, rate=rate, service=environ.get("OTEL_SERVICE_NAME") or SERVICE)


def trace_warning(release: Release) -> str | None:
    """What is to be said of tracing with a release; None: nothing."""
    if release >= FIRST_STABLE:
        return None
    return (
        f"traces: Triton {release} may crash within some thousand traced requests; "
        f"sample few of them, or run {FIRST_STABLE} or later"
    )
