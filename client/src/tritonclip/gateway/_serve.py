"""The gateway on uvicorn: connections that stall are closed, and the log is lines of JSON or plain text."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tritonclip._transport.tracing import current_ids
from tritonclip.gateway._settings import GatewaySettings

HEADERS_TIMEOUT_S = 15.0
GRACE_S = 5.0  # the answer "408" is given before the connection is closed
STOP_TIMEOUT_S = 30
NOT_TOLD = [
    *RESERVED_ATTRS,
    "color_message",
]  # of a record: what has a place of its own; uvicorn's, for terminals

log = logging.getLogger("tritonclip.gateway")


def serve(app: FastAPI, settings: GatewaySettings, log_format: str = "json", **options: Any) -> None:
    """Serve until SIGTERM or Ctrl-C; what is under way is answered first, for half a minute at most.

    Args:
        app: From `create_app`.
        settings: Its settings.
        log_format: `json` or `text`.
        **options: Further ones of `uvicorn.Config`, as `host`, `port`, `ssl_certfile`.
    """
    configure_log(log_format)
    if not settings.needs_key:
        log.warning("no API keys: everyone who reaches this port may call; see tritonclip gateway-key")
    uvicorn.Server(config(app, settings, **options)).run()


def config(app: FastAPI, settings: GatewaySettings, **options: Any) -> uvicorn.Config:
    """How uvicorn is to run the gateway."""
    return uvicorn.Config(
        app,
        http=_patient(settings.body_timeout_s),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        **options,
    )


def configure_log(log_format: str) -> None:
    """Lines on standard error, from the gateway and from uvicorn; other packages' warnings too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if log_format == "text" else _json())
    handler.addFilter(_add_trace)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("tritonclip", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)


class TextFormatter(logging.Formatter):
    """A line for people: time, level, event, and what else is told as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """See `logging.Formatter`."""
        extra = {name: value for name, value in vars(record).items() if name not in NOT_TOLD}
        told = (f"{name}={json.dumps(value, default=str)}" for name, value in extra.items())
        return " ".join([super().formatMessage(record), *told])


def _json() -> JsonFormatter:
    return JsonFormatter(
        "{asctime}{levelname}{name}{message}",
        style="{",
        reserved_attrs=NOT_TOLD,
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger", "message": "event"},
    )


def _add_trace(record: logging.LogRecord) -> bool:
    vars(record).update(current_ids())
    return True


def _patient(body_timeout_s: float) -> type[asyncio.Protocol]:
    """A protocol that closes a connection whose request does not arrive whole in time.

    uvicorn's own waits for ever, for the end of headers as for that of a body which nobody reads any more.
    """
    headers_s = min(HEADERS_TIMEOUT_S, body_timeout_s)

    class Patient(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait(headers_s)

        def on_message_begin(self) -> None:
            self._wait(headers_s)
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._wait(body_timeout_s + GRACE_S)
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._wait(None)
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait(None)
            super().connection_lost(exc)

        def _wait(self, seconds: float | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None if seconds is None else self.loop.call_later(seconds, self.transport.close)

    return Patient
