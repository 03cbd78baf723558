"""The limits on what is under way, and what ends a request whose caller is slow or gone. ASGI middleware."""

from __future__ import annotations

import asyncio
import contextlib
import time

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tritonclip.gateway._observe import CALLER_GONE, NOTES, Metrics
from tritonclip.gateway._problems import Problem
from tritonclip.gateway._settings import GatewaySettings

METHODS_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")


class Limited:
    """Admits so many requests and bytes at a time, and cancels a request whose caller has hung up.

    Args:
        app: The next application.
        settings: The limits.
        metrics: Hold what is under way.
    """

    def __init__(self, app: ASGIApp, settings: GatewaySettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._requests = self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http" or scope["method"] in METHODS_WITHOUT_BODY:
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        announced = int(length) if length.isdecimal() else 0
        body = _Body(receive, self, self._settings.body_timeout_s)
        try:
            self._check(announced)
            self._add(requests=1)
            try:
                body.weigh(announced)
                await _until_gone(self._app, scope, body, send)
            finally:
                self._add(requests=-1, size=-body.weight)
        except Problem as problem:
            await JSONResponse(problem.body, problem.status, problem.headers)(scope, receive, send)
        except ClientDisconnect:
            scope[NOTES]["status"] = CALLER_GONE

    def add_bytes(self, size: int) -> None:
        """Count bytes of a body; raises a Problem of 503 where they are too many."""
        if self._bytes + size > self._settings.max_bytes:
            raise Problem(
                status=503, code="overloaded", message="too many uploads under way; try again later"
            )
        self._add(size=size)

    def _check(self, announced: int) -> None:
        if announced > self._settings.max_body_bytes:
            raise too_large(self._settings.max_body_bytes)
        if self._requests >= self._settings.max_requests:
            raise Problem(
                status=503, code="overloaded", message="too many requests under way; try again later"
            )

    def _add(self, *, requests: int = 0, size: int = 0) -> None:
        self._requests += requests
        self._bytes += size
        self._metrics.in_flight.set(self._requests)
        self._metrics.body_bytes.set(self._bytes)


def too_large(limit_bytes: int) -> Problem:
    """What is told of a body over the limit."""
    return Problem(
        status=413,
        message=f"the body is larger than {limit_bytes} bytes; send fewer or smaller images at once",
    )


class _Body:
    """A request's body on its way, weighed.

    Attributes:
        weight: Bytes that are counted for it: those announced, or those that came.
        whole: Set once all of it is there.
        left_s: Seconds that it may still take.
    """

    def __init__(self, receive: Receive, limits: Limited, timeout_s: float) -> None:
        self._receive, self._limits = receive, limits
        self._end_s = time.monotonic() + timeout_s
        self._arrived = 0
        self.weight = 0
        self.whole = asyncio.Event()

    @property
    def left_s(self) -> float:
        """See the class."""
        return max(self._end_s - time.monotonic(), 0)

    def weigh(self, size: int) -> None:
        """Count up to so many bytes in all."""
        if size > self.weight:
            self._limits.add_bytes(size - self.weight)
            self.weight = size

    async def receive(self) -> Message:
        """The next part."""
        if self.whole.is_set():
            await asyncio.Event().wait()  # who hangs up is watched for elsewhere
        message = await self._receive()
        self._arrived += len(message.get("body", b""))
        self.weigh(self._arrived)
        if not message.get("more_body", False):
            self.whole.set()
        return message

    async def hang_up(self) -> None:
        """Wait until the caller, who has sent everything, hangs up."""
        await self.whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def _until_gone(app: ASGIApp, scope: Scope, body: _Body, send: Send) -> None:
    """Run the application, and cancel it where the body does not come or the caller hangs up.

    Raises:
        Problem: 408 where the body does not come in time.
        ClientDisconnect: Where the caller hangs up before the answer.
    """
    work = asyncio.ensure_future(app(scope, body.receive, send))
    gone = asyncio.ensure_future(body.hang_up())
    try:
        await asyncio.wait({work, gone}, timeout=body.left_s, return_when=asyncio.FIRST_COMPLETED)
        if not work.done() and not body.whole.is_set():
            text = "the body did not arrive in time; send fewer or smaller images at once"
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
