"""The interface of the transports, and what they share."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tritonclip._calls.codec import Call
from tritonclip._calls.request import Request
from tritonclip._calls.wire import DEADLINE_MS, Answer, Model, Question, Topic
from tritonclip._settings import Settings
from tritonclip.errors import (
    InferenceError,
    InvalidInputError,
    ServerUnavailableError,
    TritonClipError,
    from_failure,
)


class Transport(Protocol):
    """The interface of the synchronous transports, which carry calls and questions to the server.

    They are safe for threads and raise only errors of the package. The request's deadline covers everything,
    including connecting and retries.
    """

    def infer(self, call: Call[Any], request: Request) -> Answer:
        """Run one inference and return the requested outputs."""

    def ask(self, question: Question, request: Request) -> Any:
        """Return the answer to a question, with the type that its `Topic` documents."""

    def close(self) -> None:
        """Close all connections; calling it again does nothing."""


class AsyncTransport(Protocol):
    """The counterpart of `Transport` for asyncio, for any number of concurrent calls on one event loop.

    Cancelling a task cancels its call.
    """

    async def infer(self, call: Call[Any], request: Request) -> Answer:
        """See `Transport.infer`."""

    async def ask(self, question: Question, request: Request) -> Any:
        """See `Transport.ask`."""

    async def close(self) -> None:
        """See `Transport.close`."""


MAX_ANSWER_BYTES = 2**28


def too_large_answer(url: str) -> InferenceError:
    """Return the error for an answer over HTTP that exceeds `MAX_ANSWER_BYTES`."""
    return InferenceError(
        f"the answer was cut off at {MAX_ANSWER_BYTES >> 20} MiB. Send fewer images and labels at once, and "
        "check that this is a Triton server",
        endpoint=url,
    )


class LoopGuard:
    """A guard that binds an asynchronous transport to the event loop of its first call."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> None:
        """Raise RuntimeError on another event loop, on which the connections would hang or fail."""
        running = asyncio.get_running_loop()
        self._loop = self._loop or running
        if self._loop is not running:
            raise RuntimeError(
                "this AsyncClient belongs to the event loop of its first call; make one client per loop"
            )


_METHODS = {
    Topic.SERVER_LIVE: "is_server_live",
    Topic.SERVER_READY: "is_server_ready",
    Topic.MODEL_READY: "is_model_ready",
    Topic.MODEL_PARAMETERS: "get_model_config",
    Topic.STATISTICS: "get_inference_statistics",
}
"""The methods of all four `tritonclient` clients that answer the questions."""

JSON_TOPICS = (Topic.MODEL_PARAMETERS, Topic.STATISTICS)
"""The topics whose gRPC answers are messages unless JSON is requested."""


def send_question(client: Any, question: Question, **options: Any) -> Any:
    """Call the method of a `tritonclient` client that answers a question; awaitable if the client is."""
    names = () if question.model is None else (question.model.name,)
    return getattr(client, _METHODS[question.topic])(*names, **options)


def read_reply(question: Question, reply: Any) -> Any:
    """Convert the reply of a `tritonclient` client to a question's answer, for gRPC and HTTP alike."""
    if question.topic is Topic.MODEL_PARAMETERS:
        config = reply.get("config", reply)  # over gRPC one level deeper
        return {name: one.get("string_value", "") for name, one in config.get("parameters", {}).items()}
    if question.topic is Topic.STATISTICS:
        return list(reply.get("model_stats", []))
    return bool(reply)


def infer_arguments(triton: Any, call: Call[Any], request: Request) -> dict[str, Any]:
    """Return the keyword arguments that `infer` takes in all `tritonclient` clients.

    Args:
        triton: `tritonclient.grpc` or `tritonclient.http`, or its `aio` module.
        call: The inference.
        request: The request's options.
    """
    tensors = []
    for tensor in call.model.inputs:
        array = call.inputs[tensor.name]
        tensors.append(triton.InferInput(tensor.name, list(array.shape), tensor.datatype))
        tensors[-1].set_data_from_numpy(array)
    return {
        "model_name": call.model.name,
        "inputs": tensors,
        "outputs": [triton.InferRequestedOutput(tensor.name) for tensor in call.outputs],
        "request_id": request.request_id,
        "priority": request.priority,
        "headers": dict(request.headers),
        "parameters": {DEADLINE_MS: request.deadline.left_ms},
    }


def read_answer(call: Call[Any], result: Any) -> Answer:
    """Read a `tritonclient` InferResult; the codec reports outputs that it lacks."""
    outputs = {}
    for tensor in call.outputs:
        array = result.as_numpy(tensor.name)
        if array is not None:
            outputs[tensor.name] = array
    reply = result.get_response()
    version = reply.get("model_version", "") if isinstance(reply, dict) else reply.model_version
    return Answer(outputs, str(version))


def http_compression(settings: Settings) -> dict[str, str]:
    """Return the keyword arguments of `infer` over HTTP for the settings' compression."""
    if settings.compression is None:
        return {}
    return {f"{part}_compression_algorithm": settings.compression for part in ("request", "response")}


def tls_context(module: Any, settings: Settings) -> Any:
    """Return the TLS context of an HTTP client, made by the `ssl` module or by gevent's version of it.

    Raises:
        InvalidInputError: A file of the settings is not a PEM file, or certificate and key do not match.
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


def round_robin(settings: Settings, turn: Iterator[int]) -> Iterator[str]:
    """Return the servers for the attempts of one call over HTTP; each call starts with the next server."""
    first = next(turn) % len(settings.urls)
    return itertools.cycle(settings.urls[first:] + settings.urls[:first])


@contextmanager
def with_all_endpoints(settings: Settings) -> Iterator[None]:
    """Put all servers, not only the last one, into the error of a call that no server accepted."""
    try:
        yield
    except ServerUnavailableError as error:
        error.endpoint = settings.endpoint
        raise


def call_failure(
    error: Exception, *, model: Model | None, request: Request, endpoint: str
) -> TritonClipError:
    """Return the package's error for an exception of a `tritonclient` call; see `from_failure`."""
    name = model.name if model else None
    return from_failure(error, model=name, endpoint=endpoint, timeout_s=request.deadline.limit_s)
