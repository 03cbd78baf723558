"""Asynchronous gRPC by one `tritonclient` client, which belongs to one event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from tritonclip._config import Settings
from tritonclip._transport import build_request, grpc_parameters, read_answer
from tritonclip._transport_grpc import CHANNEL_ARGS
from tritonclip._types import Tensors
from tritonclip._wire import Model, Tensor
from tritonclip.errors import from_failure

T = TypeVar("T")


class AsyncGrpcTransport:
    """The `AsyncTransport` over gRPC."""

    def __init__(self, settings: Settings) -> None:
        """Open the channel; it connects at the first call."""
        self._endpoint = settings.endpoint
        self._client = triton.InferenceServerClient(settings.url, channel_args=CHANNEL_ARGS)

    async def infer(
        self, model: Model, inputs: Tensors, outputs: Sequence[Tensor], *, timeout_s: float, request_id: str
    ) -> Tensors:
        """See `Transport`. At the deadline, or where the task is cancelled, the server is told."""
        tensors, wanted = build_request(triton, model, inputs, outputs)

        async def send() -> Tensors:
            result = await self._client.infer(
                model.name, tensors, outputs=wanted, request_id=request_id, client_timeout=timeout_s
            )
            return read_answer(result, outputs)

        return await self._call(send, model, timeout_s)

    async def server_live(self, *, timeout_s: float) -> bool:
        """See `Transport`."""
        return await self._call(
            lambda: self._client.is_server_live(client_timeout=timeout_s), None, timeout_s
        )

    async def server_ready(self, *, timeout_s: float) -> bool:
        """See `Transport`."""
        return await self._call(
            lambda: self._client.is_server_ready(client_timeout=timeout_s), None, timeout_s
        )

    async def model_ready(self, model: Model, *, timeout_s: float) -> bool:
        """See `Transport`."""
        return await self._call(
            lambda: self._client.is_model_ready(model.name, client_timeout=timeout_s), model, timeout_s
        )

    async def model_parameters(self, model: Model, *, timeout_s: float) -> dict[str, str]:
        """See `Transport`."""
        reply = await self._call(
            lambda: self._client.get_model_config(model.name, client_timeout=timeout_s), model, timeout_s
        )
        return grpc_parameters(reply)

    async def close(self) -> None:
        """See `Transport`."""
        await self._client.close()

    async def _call(self, send: Callable[[], Awaitable[T]], model: Model | None, timeout_s: float) -> T:
        try:
            return await send()
        except (InferenceServerException, ValueError) as error:  # ValueError: the channel is closed
            name = model.name if model else None
            raise from_failure(error, model=name, endpoint=self._endpoint, timeout_s=timeout_s) from error
