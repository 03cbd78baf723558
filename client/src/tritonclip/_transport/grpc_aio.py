"""Asynchronous gRPC transport on one `tritonclient` client, which belongs to one event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import tenacity
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from tritonclip._calls.codec import Call
from tritonclip._calls.request import Request
from tritonclip._calls.wire import Answer, Question
from tritonclip._process import forks
from tritonclip._retry import call_retry_policy
from tritonclip._settings import Settings
from tritonclip._transport.base import (
    LoopGuard,
    infer_arguments,
    read_answer,
    read_reply,
    send_question,
)
from tritonclip._transport.grpc import client_options, grpc_failure, question_options
from tritonclip._transport.grpc_forks import GRPC_USE

M = TypeVar("M", bound=Call[Any] | Question)
T = TypeVar("T")


class AsyncGrpcTransport:
    """The `AsyncTransport` over gRPC."""

    def __init__(self, settings: Settings) -> None:
        """Resolve the servers; the first call opens the channel, on its event loop."""
        self._settings = settings
        self._options = client_options(settings)
        self._client: Any = None
        self._loop = LoopGuard()
        forks.renew_in_children(self)

    def renew(self) -> None:
        """Start without a channel in a forked process, for the event loop of its first call."""
        forks.leave_to_parent(self._client)
        self._client, self._loop = None, LoopGuard()

    async def infer(self, call: Call[Any], request: Request) -> Answer:
        """See `Transport`. A deadline or a cancelled task cancels the call on the server too."""
        return await self._send(self._infer, call, request)

    async def ask(self, question: Question, request: Request) -> Any:
        """See `Transport`."""
        return await self._send(self._ask, question, request)

    async def close(self) -> None:
        """See `Transport`."""
        if self._client is not None:
            await self._client.close()

    async def _infer(self, call: Call[Any], request: Request) -> Answer:
        result = await self._client.infer(
            compression_algorithm=self._settings.compression,
            client_timeout=request.deadline.left_s,
            **infer_arguments(triton, call, request),
        )
        return read_answer(call, result)

    async def _ask(self, question: Question, request: Request) -> Any:
        return read_reply(
            question, await send_question(self._client, question, **question_options(question, request))
        )

    async def _send(self, attempt: Callable[[M, Request], Awaitable[T]], message: M, request: Request) -> T:
        """Attempt until success, an error that no retry can fix, the last attempt, or the deadline."""
        self._loop.check()
        if self._client is None:
            GRPC_USE.note_channel(asyncio=True)
            self._client = triton.InferenceServerClient(**self._options)
        retrying = tenacity.AsyncRetrying(**call_retry_policy(self._settings.attempts, request))
        return await retrying(self._attempt, attempt, message, request)

    async def _attempt(
        self, attempt: Callable[[M, Request], Awaitable[T]], message: M, request: Request
    ) -> T:
        try:
            return await attempt(message, request)
        except (InferenceServerException, ValueError) as error:  # ValueError: the channel is closed
            raise grpc_failure(error, message, request, self._settings) from error
