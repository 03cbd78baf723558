"""Asynchronous HTTP by `tritonclient` clients on aiohttp, which belong to one event loop."""

from __future__ import annotations

import asyncio
import http.client
import io
import itertools
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import aiohttp
import tenacity
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

from tritonclip._calls.request import Request
from tritonclip._calls.wire import Model, Tensor
from tritonclip._retry import within
from tritonclip._settings import Settings
from tritonclip._transport.base import (
    OneLoop,
    build_request,
    call_failure,
    http_compression,
    http_parameters,
    in_turn,
    infer_options,
    naming_all,
    read_answer,
    tls_context,
)
from tritonclip._types import Answer, Tensors

T = TypeVar("T")


class _StreamingClient(triton.InferenceServerClient):  # type: ignore[misc]  # tritonclient has no types
    """Hands bodies to aiohttp as files, which it sends in pieces; as bytes they would hold up the loop."""

    async def _post(self, request_uri: str, request_body: Any, headers: Any, query_params: Any) -> Any:
        body = io.BytesIO(request_body.encode() if isinstance(request_body, str) else request_body)
        # aiohttp asks for compressed answers by itself, which cost Triton more than they spare.
        headers = {"Accept-Encoding": "identity", **(headers or {})}
        return await super()._post(request_uri, body, headers, query_params)


def _plain(error: aiohttp.ClientError) -> Exception:
    """What the other transports would raise where a connection is refused, breaks or carries no HTTP."""
    for one in (error.__cause__, error):
        if isinstance(one, OSError):
            return one
    if isinstance(error, aiohttp.ServerDisconnectedError):  # its text may be all that it parsed of an answer
        return ConnectionResetError("the server ended it before its answer was whole")
    return http.client.HTTPException(str(error))


class AsyncHttpTransport:
    """The `AsyncTransport` over HTTP."""

    def __init__(self, settings: Settings) -> None:
        """Keep the settings; a server's session is made by its first call, on its event loop."""
        self._settings = settings
        self._turn = itertools.count()  # of the servers, where there are several
        self._sessions: dict[str, Any] = {}
        self._loop = OneLoop()

    async def infer(
        self, model: Model, inputs: Tensors, outputs: Sequence[Tensor], request: Request
    ) -> Answer:
        """See `Transport`. At the deadline the connection is closed; the server still ends its work."""
        tensors, wanted = build_request(triton, model, inputs, outputs)

        async def send(client: Any) -> Answer:
            result = await client.infer(
                model.name,
                tensors,
                outputs=wanted,
                **http_compression(self._settings),
                **infer_options(request),
            )
            return read_answer(result, outputs)

        return await self._call(send, model, request)

    async def server_live(self, request: Request) -> bool:
        """See `Transport`."""
        return bool(await self._ask(lambda client, headers: client.is_server_live(headers), None, request))

    async def server_ready(self, request: Request) -> bool:
        """See `Transport`."""
        return bool(await self._ask(lambda client, headers: client.is_server_ready(headers), None, request))

    async def model_ready(self, model: Model, request: Request) -> bool:
        """See `Transport`."""
        return bool(
            await self._ask(
                lambda client, headers: client.is_model_ready(model.name, headers=headers), model, request
            )
        )

    async def model_parameters(self, model: Model, request: Request) -> dict[str, str]:
        """See `Transport`."""
        reply = await self._ask(
            lambda client, headers: client.get_model_config(model.name, headers=headers), model, request
        )
        return http_parameters(reply)

    async def statistics(self, request: Request) -> list[dict[str, Any]]:
        """See `Transport`."""
        reply = await self._ask(
            lambda client, headers: client.get_inference_statistics(headers=headers), None, request
        )
        return list(reply.get("model_stats", []))

    async def close(self) -> None:
        """See `Transport`."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    async def _ask(
        self,
        question: Callable[[Any, dict[str, str]], Awaitable[T]],
        model: Model | None,
        request: Request,
    ) -> T:
        return await self._call(lambda client: question(client, dict(request.headers)), model, request)

    async def _call(self, send: Callable[[Any], Awaitable[T]], model: Model | None, request: Request) -> T:
        """Try until it works, is refused, or attempts or time are over; each try goes to the next server."""
        self._loop.check()
        retrying = tenacity.AsyncRetrying(**within(self._settings.attempts, request))
        servers = in_turn(self._settings, self._turn)

        async def attempt() -> T:
            return await self._try(next(servers), send, model, request)

        with naming_all(self._settings):
            return await retrying(attempt)

    async def _try(
        self, url: str, send: Callable[[Any], Awaitable[T]], model: Model | None, request: Request
    ) -> T:
        endpoint = f"{self._settings.scheme}://{url}"
        failure = partial(call_failure, model=model, request=request, endpoint=endpoint)
        session = self._session(url)
        try:
            return await asyncio.wait_for(send(session), request.deadline.left_s)
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
