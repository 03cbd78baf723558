"""What a client asks of a transport, the choice of one by protocol, and what transports share.

The transports are imported when a client is made: `tritonclient` takes longer to import than all the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from tritonclip._config import Settings
from tritonclip._types import Tensors
from tritonclip._wire import Model, Tensor
from tritonclip.errors import MissingExtraError


class Transport(Protocol):
    """Carries tensors to the server and back. Safe for threads; raises only errors of the package.

    Every `timeout_s` is the true deadline of the call, in seconds, connecting included.
    """

    def infer(
        self, model: Model, inputs: Tensors, outputs: Sequence[Tensor], *, timeout_s: float, request_id: str
    ) -> Tensors:
        """Run one inference and return the outputs asked for; `request_id` shows in the server's log."""

    def server_live(self, *, timeout_s: float) -> bool:
        """Whether the server runs."""

    def server_ready(self, *, timeout_s: float) -> bool:
        """Whether the server accepts inference requests."""

    def model_ready(self, model: Model, *, timeout_s: float) -> bool:
        """Whether the model is loaded and ready."""

    def model_parameters(self, model: Model, *, timeout_s: float) -> dict[str, str]:
        """The parameters of the model's configuration."""

    def close(self) -> None:
        """Close all connections; calling it again does nothing."""


class AsyncTransport(Protocol):
    """The twin of `Transport` for asyncio: belongs to one event loop, takes any number of calls at once.

    A cancelled task cancels its call.
    """

    async def infer(
        self, model: Model, inputs: Tensors, outputs: Sequence[Tensor], *, timeout_s: float, request_id: str
    ) -> Tensors:
        """See `Transport.infer`."""

    async def server_live(self, *, timeout_s: float) -> bool:
        """See `Transport.server_live`."""

    async def server_ready(self, *, timeout_s: float) -> bool:
        """See `Transport.server_ready`."""

    async def model_ready(self, model: Model, *, timeout_s: float) -> bool:
        """See `Transport.model_ready`."""

    async def model_parameters(self, model: Model, *, timeout_s: float) -> dict[str, str]:
        """See `Transport.model_parameters`."""

    async def close(self) -> None:
        """See `Transport.close`."""


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


def read_answer(result: Any, outputs: Sequence[Tensor]) -> Tensors:
    """The outputs that a `tritonclient` InferResult holds, by name; the codec misses those that it lacks."""
    arrays = {tensor.name: result.as_numpy(tensor.name) for tensor in outputs}
    return {name: array for name, array in arrays.items() if array is not None}


def grpc_parameters(reply: Any) -> dict[str, str]:
    """The parameters of a `get_model_config` answer over gRPC."""
    return {name: entry.string_value for name, entry in reply.config.parameters.items()}


def http_parameters(reply: Any) -> dict[str, str]:
    """The parameters of a `get_model_config` answer over HTTP."""
    return {name: entry["string_value"] for name, entry in reply.get("parameters", {}).items()}


def open_transport(settings: Settings) -> Transport:
    """Make the transport of the settings' protocol; connects at the first call.

    Raises:
        MissingExtraError: If `tritonclient` lacks the protocol's dependencies.
    """
    with _missing_extra(settings.protocol):
        if settings.protocol == "grpc":
            from tritonclip._transport_grpc import GrpcTransport

            return GrpcTransport(settings)
        from tritonclip._transport_http import HttpTransport

        return HttpTransport(settings)


def open_async_transport(settings: Settings) -> AsyncTransport:
    """The twin of `open_transport` for asyncio."""
    with _missing_extra(settings.protocol):
        if settings.protocol == "grpc":
            from tritonclip._transport_aio_grpc import AsyncGrpcTransport

            return AsyncGrpcTransport(settings)
        from tritonclip._transport_aio_http import AsyncHttpTransport

        return AsyncHttpTransport(settings)


@contextmanager
def _missing_extra(protocol: str) -> Iterator[None]:
    try:
        yield
    except (ImportError, RuntimeError) as error:  # tritonclient raises RuntimeError for a missing extra
        raise MissingExtraError(
            f"protocol {protocol!r} needs a part of tritonclient that is not installed: "
            f"pip install 'tritonclient[{protocol}]'"
        ) from error
