"""Asynchronous HTTP by one `tritonclient` client on aiohttp, which belongs to one event loop."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import aiohttp
import tritonclient.http.aio as triton
from tritonclient.utils import InferenceServerException

from tritonclip._config import Settings
from tritonclip._transport import build_request, http_parameters, read_answer
from tritonclip._types import Tensors
from tritonclip._wire import Model, Tensor
from tritonclip.errors import from_failure

T = TypeVar("T")


class _StreamingClient(triton.InferenceServerClient):  # type: ignore[misc]  # tritonclient has no types
    """Hands bodies to aiohttp as files, which it sends in pieces; as bytes they would hold up the loop."""

    async def _post(self, request_uri: str, request_body: Any, headers: Any, query_params: Any) -> Any:
        body = io.BytesIO(request_body.encode() if isinstance(request_body, str) else request_body)
        return await super()._post(request_uri, body, headers, query_params)


class AsyncHttpTransport:
    """The `AsyncTransport` over HTTP."""

    def __init__(self, settings: Settings) -> None:
        """Keep the settings; the session is made by the first call, on its event loop."""
        self._settings = settings
        self._session: Any = None

    async def infer(
        self, model: Model, inputs: Tensors, outputs: Sequence[Tensor], *, timeout_s: float, request_id: str
    ) -> Tensors:
        """See `Transport`. At the deadline the connection is closed; the server still ends its work."""
        tensors, wanted = build_request(triton, model, inputs, outputs)

        async def send(client: Any) -> Tensors:
            result = await client.infer(model.name, tensors, outputs=wanted, request_id=request_id)
            return read_answer(result, outputs)

        return await self._call(send, model, timeout_s)

    async def server_live(self, *, timeout_s: float) -> bool:
        """See `Transport`."""
        return bool(await self._call(lambda client: client.is_server_live(), None, timeout_s))

    async def server_ready(self, *, timeout_s: float) -> bool:
        """See `Transport`."""
        return bool(await self._call(lambda client: client.is_server_ready(), None, timeout_s))

    async def model_ready(self, model: Model, *, timeout_s: float) -> bool:
        """See `Transport`."""
        return bool(await self._call(lambda client: client.is_model_ready(model.name), model, timeout_s))

    async def model_parameters(self, model: Model, *, timeout_s: float) -> dict[str, str]:
        """See `Transport`."""
        reply = await self._call(lambda client: client.get_model_config(model.name), model, timeout_s)
        return http_parameters(reply)

    async def close(self) -> None:
        """See `Transport`."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _call(self, send: Callable[[Any], Awaitable[T]], model: Model | None, timeout_s: float) -> T:
        if self._session is None:
            self._session = _StreamingClient(self._settings.url, conn_limit=0, conn_timeout=None)
        try:
            return await asyncio.wait_for(send(self._session), timeout_s)
        except asyncio.TimeoutError as error:
            raise self._error(TimeoutError(), model, timeout_s) from error
        except aiohttp.ClientError as error:
            # Refused, reset or no HTTP: an OSError to the caller, whatever aiohttp calls it.
            raise self._error(OSError(str(error)), model, timeout_s) from error
        except (InferenceServerException, OSError, ValueError) as error:
            raise self._error(error, model, timeout_s) from error

    def _error(self, error: Exception, model: Model | None, timeout_s: float) -> Exception:
        name = model.name if model else None
        return from_failure(error, model=name, endpoint=self._settings.endpoint, timeout_s=timeout_s)
