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


class InFlightLimitMiddleware:
    """Limits the number and the bytes of requests in flight, and cancels a request when its caller leaves.

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
            self._check(announced)
            self._add(requests=1)
            try:
                body.reserve(announced)
                await _run_while_connected(self._app, scope, body, send)
            finally:
                self._add(requests=-1, size=-body.reserved)
        except Problem as problem:
            await JSONResponse(problem.body, problem.status, problem.headers)(scope, receive, send)
        except ClientDisconnect:
            scope[NOTES]["status"] = CALLER_GONE

    def add_bytes(self, size: int) -> None:
        """Count bytes of a body.

        Raises:
            Problem: 503 if the limit on bytes in flight would be exceeded.
        """
        if self._bytes + size > self._settings.max_bytes:
            raise Problem(
                status=503, code="overloaded", message="too many upload bytes in flight; try again later"
            )
        self._add(size=size)

    def _check(self, announced: int) -> None:
        if announced > self._settings.max_body_bytes:
            raise too_large(self._settings.max_body_bytes)
        if self._requests >= self._settings.max_requests:
            raise Problem(
                status=503, code="overloaded", message="too many requests in flight; try again later"
            )

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
    )


class _MeteredBody:
    """An incoming request body whose bytes count towards the limit.

    Attributes:
        reserved: Bytes counted for this body: the announced length, or more if more has arrived.
        complete: Set once the whole body has arrived.
    """

    def __init__(self, receive: Receive, limits: InFlightLimitMiddleware, timeout_s: float) -> None:
        self._receive, self._limits = receive, limits
        self._end_s = time.monotonic() + timeout_s
        self._arrived = 0
        self.reserved = 0
        self.complete = asyncio.Event()

    @property
    def left_s(self) -> float:
        """Seconds that the rest of the body may take."""
        return max(self._end_s - time.monotonic(), 0)

    def reserve(self, size: int) -> None:
        """Raise the number of counted bytes to `size`."""
        if size > self.reserved:
            self._limits.add_bytes(size - self.reserved)
            self.reserved = size

    async def receive(self) -> Message:
        """Receive the next part of the body."""
        if self.complete.is_set():
            await asyncio.Event().wait()  # wait_for_disconnect watches the connection from here on
        message = await self._receive()
        self._arrived += len(message.get("body", b""))
        self.reserve(self._arrived)
        if not message.get("more_body", False):
            self.complete.set()
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
        await asyncio.wait({work, gone}, timeout=body.left_s, return_when=asyncio.FIRST_COMPLETED)
        if not work.done() and not body.complete.is_set():
            text = "the body did not arrive in time; send fewer or smaller images per request"
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
