"""Answers over HTTP without an end: clients cut them off, and fetches of URLs leave no thread behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.helpers.threads import in_thread
from tests.helpers.waiting import wait_until
from tritonclip import AsyncClient, Client, InferenceError, InvalidInputError
from tritonclip._images.fetch import Fetcher
from tritonclip._transport import http, http_aio

LIMIT_BYTES = 1 << 18
OK = b"HTTP/1.1 200 OK\r\n"
BLOCK = b"a" * 4000
ENDLESS = {
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"fa0\r\n" + BLOCK + b"\r\n"),
    "body until the connection closes": (OK + b"\r\n", BLOCK),
    "announced body": (OK + b"Content-Length: 99999999999\r\n\r\n", BLOCK),
}


class _Server(socketserver.ThreadingTCPServer):
    """A server that answers with a start and then repeats a block until the client disconnects."""

    daemon_threads = True

    def __init__(self, start: bytes, block: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.start, self.block, self.requests = start, block, 0
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.request.recv(1 << 16)
            self.server.requests += 1
            for block in itertools.chain([self.server.start], itertools.repeat(self.server.block)):
                self.request.sendall(block)


@contextlib.contextmanager
def repeating(start: bytes, block: bytes) -> Iterator[_Server]:
    with in_thread(_Server(start, block)) as server:
        yield server


def embed(address: str) -> None:
    with Client(address, timeout_s=60) as client:
        client.embed_texts("a")


def embed_with_asyncio(address: str) -> None:
    async def run() -> None:
        async with AsyncClient(address, timeout_s=60) as client:
            await client.embed_texts("a")

    asyncio.run(run())


@pytest.fixture(autouse=True)
def _low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (http, http_aio):
        monkeypatch.setattr(module, "MAX_ANSWER_BYTES", LIMIT_BYTES)


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.parametrize("call", [embed, embed_with_asyncio])
def test_endless_answer_over_http_is_cut_off_and_not_retried(call, what):
    with repeating(*ENDLESS[what]) as server:
        with pytest.raises(InferenceError, match="the answer was cut off at") as caught:
            call(server.address)
        assert caught.value.endpoint == server.address
        assert server.requests == 1


@pytest.mark.parametrize("call", [embed, embed_with_asyncio])
def test_endless_text_of_an_error_is_cut_off(call):
    start, block = ENDLESS["chunks"]
    with repeating(start.replace(b"200 OK", b"400 No"), block) as server:
        with pytest.raises(InvalidInputError, match="the answer was cut off at"):
            call(server.address)


def test_endless_headers_over_http_are_cut_off():
    with repeating(OK, b"name: value\r\n") as server, Client(server.address, timeout_s=60) as client:
        with pytest.raises(InferenceError, match="the answer was cut off at"):
            client.embed_texts("a")


def test_thread_of_a_fetch_ends_although_interim_responses_do_not():
    before = set(threading.enumerate())
    with repeating(b"", b"HTTP/1.1 100 Continue\r\n\r\n") as server:
        with pytest.raises(InvalidInputError, match="timed out"):
            Fetcher(timeout_s=0.3).fetch(f"{server.address}/image", "image 0")
        wait_until(
            lambda: not [one for one in set(threading.enumerate()) - before if one.name.endswith("(_work)")],
            "the fetch goes on",
        )
