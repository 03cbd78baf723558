"""A trace collector for tests: OTLP over HTTP, as protobuf from Python and as JSON from Triton."""

from __future__ import annotations

import contextlib
import gzip
import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.helpers.threads import in_thread

RESEND_AFTER_S = 3
TRIES = 40
ERROR = 2  # OTLP's status code


@dataclass(frozen=True)
class Span:
    """A received span. Ids are hexadecimal, and `parent` is empty for a root span."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    is_error: bool
    attributes: dict[str, Any]
    events: list[str]


@dataclass
class Receiver:
    """The collector's endpoint, and the spans and bodies that it has received."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def spans_of(self, trace: str) -> list[Span]:
        """Return the spans of a trace."""
        return [span for span in list(self.spans) if span.trace == trace]

    def send_traced(
        self, send: Callable[[str], object], enough: Callable[[list[Span]], object]
    ) -> tuple[list[Span], str]:
        """Send a request, and return its spans once they are complete, and the id of its caller's span.

        Triton 2.51 reads past the end of a `traceparent` that arrives over gRPC, and so misses about one in
        50. After a while, a request is sent again in a new trace, and the first complete trace counts.

        Args:
            send: Sends the request with a given `traceparent`.
            enough: Returns True if the spans are complete.
        """
        sent: list[tuple[str, str]] = []
        for _ in range(TRIES):
            traceparent, trace, caller = new_trace()
            send(traceparent)
            sent.append((trace, caller))
            end = time.monotonic() + RESEND_AFTER_S
            while time.monotonic() < end:
                for trace, caller in sent:
                    if enough(found := self.spans_of(trace)):
                        return found, caller
                time.sleep(0.05)
        raise AssertionError(f"incomplete spans: {found}")


def new_trace(sampled: bool = True) -> tuple[str, str, str]:
    """Return a new `traceparent`, and the ids of its trace and span."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return f"00-{trace}-{span}-{int(sampled):02}", trace, span


def is_answered(spans: list[Span]) -> bool:
    """Return True if Triton has sent all of its spans; the outermost one ends last."""
    return any(span.name == "InferRequest" for span in spans)


def only(spans: list[Span], name: str) -> Span:
    """Return the only span of a name."""
    (span,) = [span for span in spans if span.name == name]
    return span


@contextlib.contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """Run the collector until the block ends. Port 0 is a free one."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # noqa: N802
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.bodies.append(body)
            is_json = "json" in self.headers["Content-Type"]
            receiver.spans.extend(_of_json(json.loads(body)) if is_json else _of_protobuf(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    with in_thread(ThreadingHTTPServer(("127.0.0.1", port), Handler)) as server:
        receiver.endpoint = f"http://127.0.0.1:{server.server_port}"
        yield receiver


def _of_json(message: dict[str, Any]) -> Iterator[Span]:
    for resource in message["resourceSpans"]:
        service = _values(resource["resource"]["attributes"])["service.name"]
        for span in (span for scope in resource["scopeSpans"] for span in scope["spans"]):
            yield Span(
                service=service,
                name=span["name"],
                trace=span["traceId"],
                id=span["spanId"],
                parent=span.get("parentSpanId", ""),
                is_error=span.get("status", {}).get("code") == ERROR,
                attributes=_values(span.get("attributes", [])),
                events=[event["name"] for event in span.get("events", [])],
            )


def _values(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in attributes}


def _of_protobuf(body: bytes) -> Iterator[Span]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _plain(resource.resource.attributes)["service.name"]
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            yield Span(
                service=service,
                name=span.name,
                trace=span.trace_id.hex(),
                id=span.span_id.hex(),
                parent=span.parent_span_id.hex(),
                is_error=span.status.code == ERROR,
                attributes=_plain(span.attributes),
                events=[event.name for event in span.events],
            )


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
