"""Asynchronous gRPC by one `tritonclient` client, which belongs to one event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import tenacity
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from tritonclip._calls.request import Request
from tritonclip._calls.wire import Model, Tensor
from tritonclip._retry import within
from tritonclip._settings import Settings
from tritonclip._transport.base import (
    OneLoop,
    build_request,
    call_failure,
    grpc_parameters,
    infer_options,
    read_answer,
)
from tritonclip._transport.grpc import client_options
from tritonclip._types import Answer, Tensors

T = TypeVar("T")


class AsyncGrpcTransport:
    """The `AsyncTransport` over gRPC."""

    def __init__(self, settings: Settings) -> None:
        """Resolve the servers; the channel is made by the first call, on its event loop."""
        self._settings = settings
        self._options = client_options(settings)
        self._client: Any = None
        self._loop = OneLoop()

    async def infer(
        self, model: Model, inputs: Tensors, outputs: Sequence[Tensor], request: Request
    ) -> Answer:
        """See `Transport`. At the deadline, or where the task is cancelled, the server is told."""
        tensors, wanted = build_request(triton, model, inputs, outputs)

        async def send(client: Any, **common: Any) -> Answer:
            result = await client.infer(
                model.name,
                tensors,
                outputs=wanted,
                compression_algorithm=self._settings.compression,
                **infer_options(request) | common,
            )
            return read_answer(result, outputs)

        return await self._call(send, model, request)

    async def server_live(self, request: Request) -> bool:
        """See `Transport`."""
        return bool(await self._call(lambda client, **common: client.is_server_live(**common), None, request))

    async def server_ready(self, request: Request) -> bool:
        """See `Transport`."""
        return bool(
            await self._call(lambda client, **common: client.is_server_ready(**common), None, request)
        )

    async def model_ready(self, model: Model, request: Request) -> bool:
        """See `Transport`."""
        return bool(
            await self._call(
                lambda client, **common: client.is_model_ready(model.name, **common), model, request
            )
        )

    async def model_parameters(self, model: Model, request: Request) -> dict[str, str]:
        """See `Transport`."""
        reply = await self._call(
            lambda client, **common: client.get_model_config(model.name, **common), model, request
        )
        return grpc_parameters(reply)

    async def statistics(self, request: Request) -> list[dict[str, Any]]:
        """See `Transport`."""
        reply = await self._call(
            lambda client, **common: client.get_inference_statistics(as_json=True, **common), None, request
        )
        return list(reply.get("model_stats", []))

    async def close(self) -> None:
        """See `Transport`."""
        if self._client is not None:
            await self._client.close()

    async def _call(self, send: Callable[..., Awaitable[T]], model: Model | None, request: Request) -> T:
        """Try until it works, is refused, or attempts or time are over."""
        self._loop.check()
        if self._client is None:
            self._client = triton.InferenceServerClient(**self._options)
        retrying = tenacity.AsyncRetrying(**within(self._settings.attempts, request))
        return await retrying(self._try, send, model, request)

    async def _try(self, send: Callable[..., Awaitable[T]], model: Model | None, request: Request) -> T:
        try:
            return await send(
                self._client, client_timeout=request.deadline.left_s, headers=dict(request.headers)
            )
        except (InferenceServerException, ValueError) as error:  # ValueError: the channel is closed
            endpoint = self._settings.endpoint
            raise call_failure(error, model=model, request=request, endpoint=endpoint) from error
