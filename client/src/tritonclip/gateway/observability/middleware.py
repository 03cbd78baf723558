"""Log line and Prometheus metrics for each request. Neither holds a request's content or an API key."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from asgi_correlation_id import correlation_id
from opentelemetry import trace
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tritonclip import Timings, collect_timings
from tritonclip.gateway._problems import Problem

CALLER_GONE = 499  # nginx's status for a client that closed the connection before the response
NOTES = "tritonclip.notes"
BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
TIMING = "X-Timing"
QUIET = ("/healthz", "/readyz", "/metrics")  # polled by machines; logged at INFO only on failure

log = logging.getLogger("tritonclip.gateway")


class Metrics:
    """The gateway's Prometheus metrics, in a separate registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        name = "tritonclip_gateway"
        self.requests = Counter(
            f"{name}_requests",
            "Requests by method, route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            f"{name}_request_seconds",
            "Seconds from the request's headers to the end of the response.",
            ["route"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.images = Counter(f"{name}_images", "Images by result.", ["result"], registry=self.registry)
        self.texts = Counter(f"{name}_texts", "Labels and texts sent to Triton.", registry=self.registry)
        self.in_flight = Gauge(f"{name}_requests_in_flight", "Requests in flight.", registry=self.registry)
        self.body_bytes = Gauge(
            f"{name}_body_bytes_in_flight",
            "Bytes of request bodies in flight.",
            registry=self.registry,
        )


def note(connection: HTTPConnection, **notes: Any) -> None:
    """Add fields to the request's log line. Fields that are None are left out."""
    connection.scope.get(NOTES, {}).update(
        {name: value for name, value in notes.items() if value is not None}
    )


class ObservabilityMiddleware:
    """Counts and logs each request, and answers unhandled exceptions with status 500.

    Args:
        app: The next application.
        metrics: The metrics to update.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["query_string"]:  # no route reads a query, so it may hold anything, even a key
            trace.get_current_span().set_attribute("url.query", "REDACTED")
        notes: dict[str, Any] = {}
        scope[NOTES] = notes
        start_s, status = time.perf_counter(), 0

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if timings:
                    header = timing_header(timings, (time.perf_counter() - start_s) * 1000)
                    message["headers"] = [*message["headers"], (TIMING.encode(), header.encode())]
            await send(message)

        try:
            with collect_timings() as timings:
                await self._app(scope, receive, send_noting_status)
        except Exception:
            log.exception("unhandled exception", extra={"request_id": correlation_id.get()})
            if not status:
                problem = Problem(status=500, message="the gateway failed; report it with the X-Request-ID")
                await JSONResponse(problem.body, problem.status)(scope, receive, send_noting_status)
        finally:
            self._record(scope, notes, notes.pop("status", status), time.perf_counter() - start_s)

    def _record(self, scope: Scope, notes: dict[str, Any], status: int, seconds: float) -> None:
        # Label by route pattern: requested paths are arbitrary and would grow the metrics without bound.
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(scope["method"], route, status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        quiet = route in QUIET and status < 400
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "request",
            extra={
                "request_id": correlation_id.get(),
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "ms": round(seconds * 1000, 2),
                "address": scope["client"][0] if scope.get("client") else None,
                **notes,
            },
        )


def timing_header(timings: Sequence[Timings], total_ms: float) -> str:
    """Return where the time of a request went, in milliseconds, as the value of the header `X-Timing`.

    Args:
        timings: The timings of its requests to Triton.
        total_ms: The time from the request's headers to those of its response. If requests to Triton ran at
            once and took longer in sum, their parts are shortened in proportion.
    """
    sums = dict(zip(Timings._fields, map(sum, zip(*timings, strict=True)), strict=True))
    del sums["client_ms"]  # the gateway is the client
    on_triton_ms = sum(sums.values())
    scale = min(1.0, total_ms / on_triton_ms)
    parts = {name.removesuffix("_ms"): part_ms * scale for name, part_ms in sums.items()}
    parts["gateway"] = total_ms - on_triton_ms * scale
    return ", ".join(f"{name}={part_ms:.2f}" for name, part_ms in {"total": total_ms, **parts}.items())


def count_images(request: Request, metrics: Metrics, answered: int, failed: int) -> None:
    """Count a request's images, in the metrics and in its log line."""
    metrics.images.labels("answered").inc(answered)
    metrics.images.labels("failed").inc(failed)
    note(request, images=answered, images_failed=failed or None)
