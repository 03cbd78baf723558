"""What a client asks of a transport, the choice of one by protocol, and what transports share.

The transports are imported when a client is made: `tritonclient` takes longer to import than all the rest.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from tritonclip._calls.request import Request
from tritonclip._calls.wire import DEADLINE_MS, Model, Tensor
from tritonclip._settings import Settings
from tritonclip._types import Answer, Tensors
from tritonclip.errors import (
    InvalidInputError,
    MissingExtraError,
    ServerUnavailableError,
    TritonClipError,
    from_failure,
)


class Transport(Protocol):
    """Carries tensors to the server and back. Safe for threads; raises only errors of the package.

    The request's deadline is a true one: it holds for connecting and for every further try too.
    """

    def infer(self, model: Model, inputs: Tensors, outputs: Sequence[Tensor], request: Request) -> Answer:
        """Run one inference and return the outputs asked for."""

    def server_live(self, request: Request) -> bool:
        """Whether the server runs."""

    def server_ready(self, request: Request) -> bool:
        """Whether the server accepts inference requests."""

    def model_ready(self, model: Model, request: Request) -> bool:
        """Whether the model is loaded and ready."""

    def model_parameters(self, model: Model, request: Request) -> dict[str, str]:
        """The parameters of the model's configuration."""

    def statistics(self, request: Request) -> list[dict[str, Any]]:
        """Triton's statistics of every model, in the field names of its HTTP form."""

    def close(self) -> None:
        """Close all connections; calling it again does nothing."""


class AsyncTransport(Protocol):
    """The twin of `Transport` for asyncio: belongs to one event loop, takes any number of calls at once.

    A cancelled task cancels its call.
    """

    async def infer(
        self, model: Model, inputs: Tensors, outputs: Sequence[Tensor], request: Request
    ) -> Answer:
        """See `Transport.infer`."""

    async def server_live(self, request: Request) -> bool:
        """See `Transport.server_live`."""

    async def server_ready(self, request: Request) -> bool:
        """See `Transport.server_ready`."""

    async def model_ready(self, model: Model, request: Request) -> bool:
        """See `Transport.model_ready`."""

    async def model_parameters(self, model: Model, request: Request) -> dict[str, str]:
        """See `Transport.model_parameters`."""

    async def statistics(self, request: Request) -> list[dict[str, Any]]:
        """See `Transport.statistics`."""

    async def close(self) -> None:
        """See `Transport.close`."""


class OneLoop:
    """The event loop of an asynchronous transport: that of its first call."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> None:
        """Raise RuntimeError in another loop, where its connections would hang or fail."""
        running = asyncio.get_running_loop()
        self._loop = self._loop or running
        if self._loop is not running:
            raise RuntimeError(
                "this AsyncClient belongs to the event loop of its first call; make one for each loop"
            )


def build_request(
    triton: Any, model: Model, inputs: Tensors, outputs: Sequence[Tensor]
) -> tuple[list[Any], list[Any]]:
    """The inputs and the requested outputs as objects of `tritonclient.grpc` or `tritonclient.http`."""
    tensors = []
    for tensor in model.inputs:
        array = inputs[tensor.name]
        tensors.append(triton.InferInput(tensor.name, list(array.shape), tensor.datatype))
        tensors[-1].set_data_from_numpy(array)
    return tensors, [triton.InferRequestedOutput(tensor.name) for tensor in outputs]


def infer_options(request: Request) -> dict[str, Any]:
    """The keyword arguments that `infer` of both `tritonclient` modules shares."""
    return {
        "request_id": request.request_id,
        "priority": request.priority,
        "headers": dict(request.headers),
        "parameters": {DEADLINE_MS: request.deadline.left_ms},
    }


def http_compression(settings: Settings) -> dict[str, str]:
    """The keyword arguments of `infer` over HTTP for the settings' compression."""
    if settings.compression is None:
        return {}
    return {f"{part}_compression_algorithm": settings.compression for part in ("request", "response")}


def tls_context(module: Any, settings: Settings) -> Any:
    """The TLS context of an HTTP client, made by the `ssl` module or by gevent's form of it.

    Raises:
        InvalidInputError: If a file of the settings is no PEM file, or certificate and key do not fit.
    """
    try:
        context = module.create_default_context(cafile=settings.ca_file)
        if settings.cert_file is not None:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except OSError as error:  # SSLError is one
        raise InvalidInputError(
            f"ca_file, cert_file or key_file cannot be used: {error}; give PEM files that belong together"
        ) from error
    return context


def in_turn(settings: Settings, turn: Iterator[int]) -> Iterator[str]:
    """The servers that the tries of one call over HTTP go to: all of them, from the one whose turn it is."""
    first = next(turn) % len(settings.urls)
    return itertools.cycle(settings.urls[first:] + settings.urls[:first])


@contextmanager
def naming_all(settings: Settings) -> Iterator[None]:
    """An error of a call that no server took names all of them, not only the last one."""
    try:
        yield
    except ServerUnavailableError as error:
        error.endpoint = settings.endpoint
        raise


def call_failure(
    error: Exception, *, model: Model | None, request: Request, endpoint: str
) -> TritonClipError:
    """The error of the package for what a call of `tritonclient` raised; see `from_failure`."""
    name = model.name if model else None
    return from_failure(error, model=name, endpoint=endpoint, timeout_s=request.deadline.limit_s)


def read_answer(result: Any, outputs: Sequence[Tensor]) -> Answer:
    """What a `tritonclient` InferResult holds; the codec misses the outputs that it lacks."""
    arrays = {tensor.name: result.as_numpy(tensor.name) for tensor in outputs}
    reply = result.get_response()
    version = reply.get("model_version", "") if isinstance(reply, dict) else reply.model_version
    return Answer({name: array for name, array in arrays.items() if array is not None}, str(version))


def grpc_parameters(reply: Any) -> dict[str, str]:
    """The parameters of a `get_model_config` answer over gRPC."""
    return {name: entry.string_value for name, entry in reply.config.parameters.items()}


def http_parameters(reply: Any) -> dict[str, str]:
    """The parameters of a `get_model_config` answer over HTTP."""
    return {name: entry["string_value"] for name, entry in reply.get("parameters", {}).items()}


def open_transport(settings: Settings) -> Transport:
    """Make the transport of the settings' protocol; connects at the first call.

    Raises:
        InvalidInputError: See `tls_context`.
        MissingExtraError: If `tritonclient` lacks the protocol's dependencies.
    """
    _check_tls(settings)
    with _missing_extra(settings.protocol):
        if settings.protocol == "grpc":
            from tritonclip._transport.grpc import GrpcTransport

            return GrpcTransport(settings)
        from tritonclip._transport.http import HttpTransport

        return HttpTransport(settings)


def open_async_transport(settings: Settings) -> AsyncTransport:
    """The twin of `open_transport` for asyncio."""
    _check_tls(settings)
    with _missing_extra(settings.protocol):
        if settings.protocol == "grpc":
            from tritonclip._transport.grpc_aio import AsyncGrpcTransport

            return AsyncGrpcTransport(settings)
        from tritonclip._transport.http_aio import AsyncHttpTransport

        return AsyncHttpTransport(settings)


def _check_tls(settings: Settings) -> None:
    """Read the files before any call: gRPC would take a broken one for a server that is not there."""
    if settings.secure:
        tls_context(ssl, settings)


@contextmanager
def _missing_extra(protocol: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, RuntimeError) as error:  # tritonclient raises RuntimeError for a missing extra
        raise MissingExtraError(
            f"protocol {protocol!r} needs a part of tritonclient that is not installed: "
            f"pip install 'tritonclient[{protocol}]'"
        ) from error
