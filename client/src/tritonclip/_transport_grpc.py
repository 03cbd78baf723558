"""gRPC by one shared `tritonclient` client, which is safe for threads as long as nothing streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tritonclip._config import Settings
from tritonclip._transport import build_request, grpc_parameters, read_answer
from tritonclip._types import Tensors
from tritonclip._wire import Model, Tensor
from tritonclip.errors import from_failure

T = TypeVar("T")

# Given at all, these replace tritonclient's own, so its message sizes are said again.
CHANNEL_ARGS = [
    ("grpc.max_send_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
    # After an outage gRPC waits up to 120 s before it tries to connect again; calls fail meanwhile.
    ("grpc.max_reconnect_backoff_ms", 2000),
]


class GrpcTransport:
    """The `Transport` over gRPC."""

    def __init__(self, settings: Settings) -> None:
        """Open the channel; it connects at the first call."""
        self._endpoint = settings.endpoint
        self._client = triton.InferenceServerClient(settings.url, channel_args=CHANNEL_ARGS)

    def infer(
        self, model: Model, inputs: Tensors, outputs: Sequence[Tensor], *, timeout_s: float, request_id: str
    ) -> Tensors:
        """See `Transport`. At the deadline the call is cancelled on the server too."""

        def send() -> Tensors:
            tensors, wanted = build_request(triton, model, inputs, outputs)
            result = self._client.infer(
                model.name, tensors, outputs=wanted, request_id=request_id, client_timeout=timeout_s
            )
            return read_answer(result, outputs)

        return self._call(send, model, timeout_s)

    def server_live(self, *, timeout_s: float) -> bool:
        """See `Transport`."""
        return self._ask(self._client.is_server_live, None, timeout_s)

    def server_ready(self, *, timeout_s: float) -> bool:
        """See `Transport`."""
        return self._ask(self._client.is_server_ready, None, timeout_s)

    def model_ready(self, model: Model, *, timeout_s: float) -> bool:
        """See `Transport`."""
        return self._ask(partial(self._client.is_model_ready, model.name), model, timeout_s)

    def model_parameters(self, model: Model, *, timeout_s: float) -> dict[str, str]:
        """See `Transport`."""
        ask = partial(self._client.get_model_config, model.name, client_timeout=timeout_s)
        return self._call(lambda: grpc_parameters(ask()), model, timeout_s)

    def close(self) -> None:
        """See `Transport`. Calls that still run in other threads are cancelled."""
        self._client.close()

    def _ask(self, question: Callable[..., object], model: Model | None, timeout_s: float) -> bool:
        return self._call(lambda: bool(question(client_timeout=timeout_s)), model, timeout_s)

    def _call(self, send: Callable[[], T], model: Model | None, timeout_s: float) -> T:
        try:
            return send()
        except (InferenceServerException, ValueError) as error:  # ValueError: the channel is closed
            name = model.name if model else None
            raise from_failure(error, model=name, endpoint=self._endpoint, timeout_s=timeout_s) from error
