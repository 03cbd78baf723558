"""How a method is written once for both clients: as a generator of steps, which a client takes one by one.

A step is blocking work done here, or something sent to the server. The generator gets each step's result, or
its error, and returns the method's answer. `Client` takes the steps in the calling thread, `AsyncClient` does
the work in another thread and awaits what is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from tritonclip._calls.codec import Call
from tritonclip._calls.request import Request
from tritonclip._calls.wire import Model
from tritonclip._types import Answer

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """Blocking work, such as reading files or decoding images."""

    do: Callable[[Request], Any]


@dataclass(frozen=True)
class Send:
    """A method of the transport, called with it; gives the result, or with asyncio an awaitable of it.

    Attributes:
        by: Calls the method.
        model: Of an inference.
    """

    by: Callable[[Any, Request], Any]
    model: Model | None = None


Step = Work | Send
Flow = Generator[Step, Any, T]


def work(do: Callable[[Request], T]) -> Flow[T]:
    """Do something that blocks, within the request's deadline."""
    result: T = yield Work(do)
    return result


def ask(by: Callable[[Any, Request], Any], kind: type[T]) -> Flow[T]:
    """Ask the server something by a method of the transport, which gives a `kind`."""
    answer: T = yield Send(by)
    return answer


def infer(call: Call[T]) -> Flow[T]:
    """Send a call, and decode its answer."""
    return (yield from infer_versioned(call))[0]


def infer_versioned(call: Call[T]) -> Flow[tuple[T, str]]:
    """Send a call, and decode its answer; gives the version of the model that answered, too."""
    answer: Answer = yield Send(
        lambda transport, request: transport.infer(call.model, call.inputs, call.outputs, request),
        call.model,
    )
    return call.decode(answer.outputs), answer.version
