from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import Any

import pytest

from tests.helpers.waiting import wait_until
from tests.unit.client.gateway.requests import receiver, serving

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def answer_ok(scope: Any, receive: Any, send: Any) -> None:
    """Read a body, and answer."""
    while (await receive()).get("more_body"):
        pass
    await send(START)
    await send({"type": "http.response.body", "body": b"ok"})


class Limited:
    """The middleware with small limits around an application that waits for a gate."""

    def __init__(self, **settings: Any) -> None:
        from tritonclip.gateway import GatewaySettings
        from tritonclip.gateway.access.limits import InFlightLimitMiddleware
        from tritonclip.gateway.observability.middleware import Metrics

        self.gate, self.reached = asyncio.Event(), 0
        self._limits = InFlightLimitMiddleware(self._app, GatewaySettings(**settings), Metrics())

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        self.reached += 1
        await self.gate.wait()
        await send(START)
        await send({"type": "http.response.body", "body": b"ok"})

    async def post(self, *chunks: bytes, complete: bool = True, announced: int = 0) -> dict[str, Any]:
        """Send a POST, and return its status and its error."""
        messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
        if complete:
            messages[-1]["more_body"] = False
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        headers = [(b"content-length", str(announced).encode())] if announced else []
        scope = {"type": "http", "method": "POST", "headers": headers}
        await self._limits(scope, receiver(messages), send)
        body = b"".join(message.get("body", b"") for message in sent)
        error = json.loads(body)["error"] if body != b"ok" else None
        return {"status": sent[0]["status"], "error": error}


async def settle() -> None:
    """Let all tasks run until they wait."""
    for _ in range(20):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def waiting(*requests: Any) -> Any:
    """Run requests until they wait, and cancel them at the end."""
    tasks = [asyncio.ensure_future(request) for request in requests]
    await settle()
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_announced_body_reserves_no_bytes_and_no_request() -> None:
    async def run() -> None:
        limited = Limited(max_bytes=100, max_requests=2)
        limited.gate.set()
        silent = [limited.post(b"x", complete=False, announced=90) for _ in range(5)]
        async with waiting(*silent):
            assert limited.reached == 0
            assert (await limited.post(b"y" * 90))["status"] == 200

    asyncio.run(run())


def test_request_over_the_limit_is_rejected_and_counts_no_longer_afterwards() -> None:
    async def run() -> None:
        limited = Limited(max_requests=2)
        async with waiting(limited.post(b"a"), limited.post(b"b")) as tasks:
            assert limited.reached == 2
            rejected = await limited.post(b"c")
            assert (rejected["status"], rejected["error"]["code"]) == (503, "overloaded")
            assert "too many requests in flight" in rejected["error"]["message"]
            limited.gate.set()
            assert [answer["status"] for answer in await asyncio.gather(*tasks)] == [200, 200]
        assert (await limited.post(b"d"))["status"] == 200

    asyncio.run(run())


def test_arrived_bytes_over_the_limit_are_rejected() -> None:
    async def run() -> None:
        limited = Limited(max_bytes=100)
        async with waiting(limited.post(b"x" * 60, complete=False)):
            rejected = await limited.post(b"y" * 30, b"y" * 11)
            assert "too many upload bytes" in rejected["error"]["message"]
            limited.gate.set()
            assert (await limited.post(b"y" * 40))["status"] == 200

    asyncio.run(run())


def test_body_that_stands_still_gets_408(monkeypatch: pytest.MonkeyPatch) -> None:
    from tritonclip.gateway.access import limits

    monkeypatch.setattr(limits, "STALL_TIMEOUT_S", 0.02)

    async def run() -> None:
        limited = Limited(body_timeout_s=3600)
        answer = await limited.post(b"x", complete=False, announced=1000)
        assert answer["status"] == 408
        assert "no part of the body arrived for 0.02 s" in answer["error"]["message"]

    asyncio.run(run())


@pytest.mark.parametrize("max_files", [64, 1024, 4096, 1 << 20])
def test_connections_and_backlog_leave_files_free(max_files: int) -> None:
    from tritonclip.gateway._serve import capacity

    connections, backlog = capacity(max_files)
    assert connections > max_files // 3
    assert connections + backlog < max_files


def test_unlimited_files_have_a_capacity() -> None:
    import resource

    from tritonclip.gateway._serve import capacity

    assert min(capacity(resource.RLIM_INFINITY)) > 1000


def test_connections_over_the_limit_replace_idle_ones_and_are_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        serving(answer_ok, body_timeout_s=60, max_connections=4) as port,
        contextlib.ExitStack() as stack,
        caplog.at_level("WARNING", logger="tritonclip.gateway"),
    ):
        opened = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(12)]
        wait_until(lambda: sum(map(is_closed, opened)) >= 8, "connections over the limit are kept")
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(REQUEST)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    lines = [record.getMessage() for record in caplog.records if "too many connections" in record.message]
    assert len(lines) == 1


def is_closed(connection: socket.socket) -> bool:
    """Return True if the other side has closed the connection."""
    try:
        return connection.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_blank_lines_after_a_response_do_not_keep_a_connection() -> None:
    with (
        serving(answer_ok, body_timeout_s=0.1, max_connections=100) as port,
        socket.create_connection(("127.0.0.1", port), 60) as connection,
    ):
        connection.sendall(REQUEST)
        received = b""
        while not received.endswith(b"ok"):
            received += connection.recv(65536)
        connection.sendall(b"\r\n")
        assert connection.recv(65536) == b""


def test_connection_of_a_caller_that_does_not_read_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    from tritonclip.gateway import _serve

    monkeypatch.setattr(_serve, "UNREAD_TIMEOUT_S", 0.05)
    ended = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        sending = asyncio.ensure_future(send_forever(send))
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.append(True)
        sending.cancel()

    with (
        serving(endless, body_timeout_s=60, max_connections=100) as port,
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        connection.sendall(REQUEST)
        wait_until(lambda: ended, "the connection is kept")


async def send_forever(send: Any) -> None:
    """Send parts of a body that never ends."""
    while True:
        await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
        await asyncio.sleep(0)


def test_keep_alive_is_longer_than_that_of_load_balancers() -> None:
    from tritonclip.gateway import GatewaySettings
    from tritonclip.gateway._serve import config

    assert config(answer_ok, GatewaySettings()).timeout_keep_alive == 75  # type: ignore[arg-type]
    assert config(answer_ok, GatewaySettings(keep_alive_s=9)).timeout_keep_alive == 9  # type: ignore[arg-type]
