"""Asynchronous HTTP transport with `tritonclient` clients on aiohttp, which belong to one event loop."""

from __future__ import annotations

import asyncio
import http.client
import io
import itertools
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import aiohttp
import tenacity
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

from tritonclip._calls.codec import Call
from tritonclip._calls.request import Request
from tritonclip._calls.wire import Answer, Question
from tritonclip._process import forks
from tritonclip._retry import call_retry_policy
from tritonclip._settings import Settings
from tritonclip._transport.base import (
    MAX_ANSWER_BYTES,
    LoopGuard,
    call_failure,
    http_compression,
    infer_arguments,
    read_answer,
    read_reply,
    round_robin,
    send_question,
    tls_context,
    too_large_answer,
    with_all_endpoints,
)

M = TypeVar("M", bound=Call[Any] | Question)
T = TypeVar("T")


class _LimitedResponse:
    """A response of aiohttp that limits the bytes of its body."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._response, name)

    async def read(self) -> bytes:
        blocks, left = [], MAX_ANSWER_BYTES
        try:
            async for block in self._response.content.iter_any():
                blocks.append(block)
                left -= len(block)
                if left < 0:
                    raise too_large_answer(str(self._response.url.origin()))
        except BaseException:  # also a cancellation: the rest of the body must not meet the next answer
            self._response.close()
            raise
        return b"".join(blocks)


class _StreamingClient(triton.InferenceServerClient):  # type: ignore[misc]  # tritonclient has no types
    """A client that passes bodies to aiohttp as files, sent in chunks; bytes would block the event loop."""

    async def _post(self, request_uri: str, request_body: Any, headers: Any, query_params: Any) -> Any:
        body = io.BytesIO(request_body.encode() if isinstance(request_body, str) else request_body)
        # By default aiohttp requests compressed responses, which cost Triton more time than they save.
        headers = {"Accept-Encoding": "identity", **(headers or {})}
        return _LimitedResponse(await super()._post(request_uri, body, headers, query_params))

    async def _get(self, request_uri: str, headers: Any, query_params: Any) -> Any:
        return _LimitedResponse(await super()._get(request_uri, headers, query_params))


def _plain(error: aiohttp.ClientError) -> Exception:
    """Return what the other transports raise if a connection is refused, breaks or does not speak HTTP."""
    for one in (error.__cause__, error):
        if isinstance(one, OSError):
            return one
    if isinstance(error, aiohttp.ServerDisconnectedError):  # its text may be a partially parsed response
        return ConnectionResetError("the server closed it before the response was complete")
    return http.client.HTTPException(str(error))


class AsyncHttpTransport:
    """The `AsyncTransport` over HTTP."""

    def __init__(self, settings: Settings) -> None:
        """Store the settings; the first call to a server opens its session, on its event loop."""
        self._settings = settings
        self._turn = itertools.count()  # of the servers, if there are several
        self._sessions: dict[str, Any] = {}
        self._loop = LoopGuard()
        forks.renew_in_children(self)

    def renew(self) -> None:
        """Start without sessions in a forked process, for the event loop of its first call."""
        forks.leave_to_parent(self._sessions)
        self._sessions, self._loop = {}, LoopGuard()

    async def infer(self, call: Call[Any], request: Request) -> Answer:
        """See `Transport`. A deadline closes the connection; the server still finishes its work."""
        return await self._send(self._infer, call, request)

    async def ask(self, question: Question, request: Request) -> Any:
        """See `Transport`."""
        return await self._send(self._ask, question, request)

    async def close(self) -> None:
        """See `Transport`."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    async def _infer(self, client: Any, call: Call[Any], request: Request) -> Answer:
        arguments = infer_arguments(triton, call, request)
        return read_answer(call, await client.infer(**arguments, **http_compression(self._settings)))

    async def _ask(self, client: Any, question: Question, request: Request) -> Any:
        return read_reply(question, await send_question(client, question, headers=dict(request.headers)))

    async def _send(
        self, attempt: Callable[[Any, M, Request], Awaitable[T]], message: M, request: Request
    ) -> T:
        """Attempt until success, an error that no retry can fix, the last attempt, or the deadline.

        Each attempt goes to the next server.
        """
        self._loop.check()
        retrying = tenacity.AsyncRetrying(**call_retry_policy(self._settings.attempts, request))
        servers = round_robin(self._settings, self._turn)

        async def attempt_next() -> T:
            return await self._attempt(next(servers), attempt, message, request)

        with with_all_endpoints(self._settings):
            return await retrying(attempt_next)

    async def _attempt(
        self, url: str, attempt: Callable[[Any, M, Request], Awaitable[T]], message: M, request: Request
    ) -> T:
        endpoint = f"{self._settings.scheme}://{url}"
        failure = partial(call_failure, model=message.model, request=request, endpoint=endpoint)
        session = self._session(url)
        try:
            return await asyncio.wait_for(attempt(session, message, request), request.deadline.left_s)
        except asyncio.TimeoutError as error:
            raise failure(TimeoutError()) from error
        except aiohttp.ClientError as error:
            raise failure(_plain(error)) from error
        except (InferenceServerException, OSError, ValueError) as error:
            raise failure(error) from error

    def _session(self, url: str) -> Any:
        if url not in self._sessions:
            secure = self._settings.secure
            self._sessions[url] = _StreamingClient(
                url,
                conn_limit=0,
                conn_timeout=None,
                ssl=secure,
                ssl_context=tls_context(ssl, self._settings) if secure else None,
            )
        return self._sessions[url]
