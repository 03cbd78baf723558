"""Requests and connections for the gateway's parts, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tests.helpers.waiting import wait_until

if TYPE_CHECKING:
    from fastapi import Request

FORM = "multipart/form-data; boundary=x"


def request_of(body: bytes, kind: str = "application/json", *, chunk_bytes: int = 1 << 20) -> Request:
    """Return a POST whose body arrives in chunks."""
    from fastapi import Request

    chunks = [body[start : start + chunk_bytes] for start in range(0, len(body), chunk_bytes)] or [b""]
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages[-1]["more_body"] = False
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())]}
    return Request(scope, receiver(messages))


def receiver(messages: Sequence[dict[str, Any]]) -> Any:
    """Return an ASGI `receive` that returns the messages and then waits for ever."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


@contextlib.contextmanager
def serving(app: Any, **limits: Any) -> Iterator[int]:
    """Serve an ASGI application with the gateway's HTTP protocol on a free port, which is yielded."""
    import uvicorn

    from tritonclip.gateway._serve import limited_protocol

    config = uvicorn.Config(
        app, port=0, http=limited_protocol(**limits), log_config=None, lifespan="off", loop="asyncio"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, "the server does not start")
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
