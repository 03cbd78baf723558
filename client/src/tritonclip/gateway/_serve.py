"""The gateway on uvicorn, with a limit on how long a request may take to arrive."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tritonclip.gateway._settings import GatewaySettings
from tritonclip.gateway.observability.logs import configure_log

HEADERS_TIMEOUT_S = 15.0
GRACE_S = 5.0  # leaves time to send the 408 response before the connection is closed
STOP_TIMEOUT_S = 30
UNREAD_TIMEOUT_S = 60.0  # for a caller that does not read its response
BACKLOG = 2048
LOG_EVERY_S = 60.0

log = logging.getLogger("tritonclip.gateway")


def serve(app: FastAPI, settings: GatewaySettings, log_format: str = "json", **options: Any) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish requests in flight for up to 30 s.

    The limit on open files is raised as far as the system allows.

    Args:
        app: The application from `create_app`.
        settings: The settings of that application.
        log_format: `json` or `text`.
        **options: Further options of `uvicorn.Config`, such as `host`, `port` and `ssl_certfile`.
    """
    configure_log(log_format)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if not settings.needs_key:
        log.warning(
            "no API keys configured: anyone who can reach this port may call; see tritonclip gateway-key"
        )
    uvicorn.Server(config(app, settings, **options)).run()


def config(app: FastAPI, settings: GatewaySettings, **options: Any) -> uvicorn.Config:
    """Return the uvicorn configuration of the gateway."""
    connections, backlog = capacity(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return uvicorn.Config(
        app,
        http=limited_protocol(settings.body_timeout_s, connections),
        backlog=backlog,
        timeout_keep_alive=settings.keep_alive_s,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        **options,
    )


def capacity(max_files: int) -> tuple[int, int]:
    """Return how many connections may be open and how many may wait, for a limit on open files.

    The event loop accepts all that wait before any of them can be rejected, and it fails if it runs out of
    files. Some remain for Triton, fetched images and an index.
    """
    if max_files == resource.RLIM_INFINITY:
        max_files = 1 << 20
    backlog = min(BACKLOG, max_files // 4)
    return max(max_files - backlog - max_files // 8, 1), backlog


def limited_protocol(body_timeout_s: float, max_connections: int) -> type[HttpToolsProtocol]:
    """Return an HTTP protocol that closes connections which are slow or too many.

    uvicorn's own protocol waits indefinitely for the end of the headers, for the rest of a body that the
    application has stopped reading, and for a caller to read a response. A connection over the limit replaces
    an idle one; if there is none, it is closed, and the log says so once a minute.
    """
    headers_s = min(HEADERS_TIMEOUT_S, body_timeout_s)
    logged_s = float("-inf")

    def make_room(connections: set[Any], newest: Any) -> None:
        nonlocal logged_s
        idle = (
            one for one in connections if one is not newest and one.is_idle and not one.transport.is_closing()
        )
        next(idle, newest).transport.abort()
        if time.monotonic() - logged_s > LOG_EVERY_S:
            logged_s = time.monotonic()
            log.warning(
                "too many connections: idle or new ones are closed; raise the limit on open files",
                extra={"max_connections": max_connections},
            )

    class LimitedProtocol(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _unread_timer: asyncio.TimerHandle | None = None

        @property
        def is_idle(self) -> bool:
            """True if no request is in flight."""
            return self.cycle is None or self.cycle.response_complete

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._close_after(headers_s)
            if len(self.connections) > max_connections:
                make_room(self.connections, self)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._timer is None and self.is_idle and self.timeout_keep_alive_task is None:
                self._close_after(headers_s)  # blank lines, which begin no request

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread_timer = self.loop.call_later(UNREAD_TIMEOUT_S, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._unread_timer is not None:
                self._unread_timer.cancel()

        def on_message_begin(self) -> None:
            self._close_after(headers_s)
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._close_after(body_timeout_s + GRACE_S)
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._close_after(None)
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._close_after(None)
            super().connection_lost(exc)

        def _close_after(self, seconds: float | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None if seconds is None else self.loop.call_later(seconds, self.transport.close)

    return LimitedProtocol
