"""The gateway on uvicorn, with a limit on how long a request may take to arrive."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tritonclip.gateway._settings import GatewaySettings
from tritonclip.gateway.observability.logs import configure_log

HEADERS_TIMEOUT_S = 15.0
GRACE_S = 5.0  # leaves time to send the 408 response before the connection is closed
STOP_TIMEOUT_S = 30

log = logging.getLogger("tritonclip.gateway")


def serve(app: FastAPI, settings: GatewaySettings, log_format: str = "json", **options: Any) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish requests in flight for up to 30 s.

    Args:
        app: The application from `create_app`.
        settings: The settings of that application.
        log_format: `json` or `text`.
        **options: Further options of `uvicorn.Config`, such as `host`, `port` and `ssl_certfile`.
    """
    configure_log(log_format)
    if not settings.needs_key:
        log.warning(
            "no API keys configured: anyone who can reach this port may call; see tritonclip gateway-key"
        )
    uvicorn.Server(config(app, settings, **options)).run()


def config(app: FastAPI, settings: GatewaySettings, **options: Any) -> uvicorn.Config:
    """Return the uvicorn configuration of the gateway."""
    return uvicorn.Config(
        app,
        http=_protocol_with_timeouts(settings.body_timeout_s),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        **options,
    )


def _protocol_with_timeouts(body_timeout_s: float) -> type[asyncio.Protocol]:
    """Return an HTTP protocol that closes a connection if a request does not arrive in time.

    uvicorn's own protocol waits indefinitely, both for the end of the headers and for the rest of a body that
    the application has stopped reading.
    """
    headers_s = min(HEADERS_TIMEOUT_S, body_timeout_s)

    class TimeoutProtocol(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._close_after(headers_s)

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

    return TimeoutProtocol
