"""Flows: a method's logic as a generator of steps, written once for both clients.

A step is an inference (`Call`), a question about the server's state (`Question`), or blocking work in the
client (`Work`). The client runs each step and sends its result, or throws its error, into the generator. The
generator returns the method's result. `Client` runs the steps in the calling thread. `AsyncClient` runs work
in another thread and awaits the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from tritonclip._calls.codec import Call
from tritonclip._calls.request import Request
from tritonclip._calls.wire import Answer, Question
from tritonclip.errors import ModelNotReadyError

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """Blocking work, such as reading files or decoding images."""

    run: Callable[[Request], Any]


Step = Work | Call[Any] | Question
Flow = Generator[Step, Any, T]


def work(run: Callable[[Request], T]) -> Flow[T]:
    """Run something that blocks, within the request's deadline."""
    result: T = yield Work(run)
    return result


def infer(call: Call[T]) -> Flow[T]:
    """Send a call and decode its answer."""
    decoded, _ = yield from infer_versioned(call)
    return decoded


def infer_versioned(call: Call[T]) -> Flow[tuple[T, str]]:
    """Send a call; return its decoded answer and the version of the model that answered."""
    answer: Answer | None = None
    to_send = call
    while answer is None:
        try:
            answer = yield to_send
        except ModelNotReadyError as error:
            to_send = to_send.for_older_server(error)
    if call.is_large:
        decoded: T = yield Work(lambda request: call.decode(answer.outputs))
        return decoded, answer.version
    return call.decode(answer.outputs), answer.version
