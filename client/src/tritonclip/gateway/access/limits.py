"""ASGI middleware that limits requests in flight and cancels those whose caller is slow or has left."""

from __future__ import annotations

import asyncio
import contextlib
import time

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tritonclip.gateway._problems import Problem
from tritonclip.gateway._settings import GatewaySettings
from tritonclip.gateway.observability.middleware import CALLER_GONE, NOTES, Metrics

METHODS_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")
STALL_TIMEOUT_S = 10.0  # longest pause in a body
TOO_SLOW = "the body did not arrive in time; send fewer or smaller images per request"


class InFlightLimitMiddleware:
    """Limits the number and the bytes of requests in flight, and cancels a request when its caller leaves.

    Bytes count once they have arrived, and a request counts once its whole body has arrived. An announcement
    alone reserves nothing, so callers that send nothing keep nobody out.

    Args:
        app: The next application.
        settings: The limits.
        metrics: Gauges for requests and bytes in flight.
    """

    def __init__(self, app: ASGIApp, settings: GatewaySettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._requests = self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or scope["method"] in METHODS_WITHOUT_BODY:
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        announced = int(length) if length.isdecimal() else 0
        body = _MeteredBody(receive, self, self._settings.body_timeout_s)
        try:
            if announced > self._settings.max_body_bytes:
                raise too_large(self._settings.max_body_bytes)
            try:
                await _run_while_connected(self._app, scope, body, send)
            finally:
                self._add(requests=-int(body.counted), size=-body.arrived)
        except Problem as problem:
            await JSONResponse(problem.body, problem.status, problem.headers)(scope, receive, send)
        except ClientDisconnect:
            scope[NOTES]["status"] = CALLER_GONE

    def add_bytes(self, size: int) -> None:
        """Count bytes of a body that have arrived.

        Raises:
            Problem: 503 if the limit on bytes in flight would be exceeded.
        """
        if self._bytes + size > self._settings.max_bytes:
            raise Problem(
                status=503, code="overloaded", message="too many upload bytes in flight; try again later"
            )
        self._add(size=size)

    def add_request(self) -> None:
        """Count a request whose body has arrived.

        Raises:
            Problem: 503 if the limit on requests in flight would be exceeded.
        """
        if self._requests >= self._settings.max_requests:
            raise Problem(
                status=503, code="overloaded", message="too many requests in flight; try again later"
            )
        self._add(requests=1)

    def _add(self, *, requests: int = 0, size: int = 0) -> None:
        self._requests += requests
        self._bytes += size
        self._metrics.in_flight.set(self._requests)
        self._metrics.body_bytes.set(self._bytes)


def too_large(limit_bytes: int) -> Problem:
    """Return the problem to report for a body over the limit."""
    return Problem(
        status=413,
        message=f"the body is larger than {limit_bytes} bytes; send fewer or smaller images per request",
        limit=limit_bytes,
    )


class _MeteredBody:
    """An incoming request body whose bytes count towards the limit.

    Attributes:
        arrived: Bytes of this body that have arrived and are counted.
        counted: True once the whole body has arrived and the request counts.
        complete: Set once the body has ended.
    """

    def __init__(self, receive: Receive, limits: InFlightLimitMiddleware, timeout_s: float) -> None:
        self._receive, self._limits = receive, limits
        now_s = time.monotonic()
        self._end_s = now_s + timeout_s
        self._stalled_s = now_s + STALL_TIMEOUT_S
        self.arrived = 0
        self.counted = False
        self.complete = asyncio.Event()

    @property
    def left_s(self) -> float:
        """Seconds until the next part of the body must have arrived."""
        return max(min(self._end_s, self._stalled_s) - time.monotonic(), 0)

    @property
    def is_paused(self) -> bool:
        """True if nothing has arrived for `STALL_TIMEOUT_S`."""
        return time.monotonic() >= self._stalled_s

    async def receive(self) -> Message:
        """Receive the next part of the body."""
        if self.complete.is_set():
            await asyncio.Event().wait()  # wait_for_disconnect watches the connection from here on
        message = await self._receive()
        size = len(message.get("body", b""))
        self._limits.add_bytes(size)
        self.arrived += size
        self._stalled_s = time.monotonic() + STALL_TIMEOUT_S
        if not message.get("more_body", False):
            self.complete.set()
            if message["type"] == "http.request":
                self._limits.add_request()
                self.counted = True
        return message

    async def wait_for_disconnect(self) -> None:
        """Wait until the caller, having sent the whole body, disconnects."""
        await self.complete.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def _run_while_connected(app: ASGIApp, scope: Scope, body: _MeteredBody, send: Send) -> None:
    """Run the application, and cancel it if the body stalls or the caller disconnects.

    Raises:
        Problem: 408 if the body does not arrive in time.
        ClientDisconnect: If the caller disconnects before the response.
    """
    work = asyncio.ensure_future(app(scope, body.receive, send))
    gone = asyncio.ensure_future(body.wait_for_disconnect())
    try:
        while not work.done() and not body.complete.is_set() and body.left_s:
            await asyncio.wait({work, gone}, timeout=body.left_s, return_when=asyncio.FIRST_COMPLETED)
        if not work.done() and not body.complete.is_set():
            paused = body.is_paused
            text = f"no part of the body arrived for {STALL_TIMEOUT_S:g} s" if paused else TOO_SLOW
            raise Problem(status=408, message=text, headers={"Connection": "close"})
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        work.result()
    finally:
        for task in (work, gone):
            task.cancel()
        with contextlib.suppress(BaseException):
            await asyncio.gather(work, gone, return_exceptions=True)
