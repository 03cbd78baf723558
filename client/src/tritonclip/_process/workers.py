"""Threads that work for a caller and that Ctrl-C always ends.

`concurrent.futures` is not used, because it guards futures by locks that Python code takes and releases. If
Ctrl-C arrives in the main thread between the two, the lock stays taken, and a thread that needs it keeps the
process from exiting. The queues here are written in C and cannot be interrupted in that way.
"""

from __future__ import annotations

import atexit
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar, cast

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

LONGEST_WAIT_S = 0.5  # Python misses a signal that arrives as a wait begins, until the wait ends

_at_work: set[threading.Thread] = set()


@dataclass(frozen=True)
class _Outcome(Generic[R]):
    """What the function returned or raised for the input of a number."""

    number: int
    result: R | None = None
    error: BaseException | None = None


class Workers(Generic[I, R]):
    """Up to `count` threads that call a function, with results in the order of the inputs.

    A result is taken by the thread that submits the inputs.
    """

    def __init__(self, function: Callable[[I], R], count: int) -> None:
        """Store the function; threads start as inputs are submitted."""
        self._function, self._count = function, count
        self._inputs: SimpleQueue[tuple[int, contextvars.Context, I] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[_Outcome[R]] = SimpleQueue()
        self._early: dict[int, _Outcome[R]] = {}  # by number, those of later inputs
        self._threads: list[threading.Thread] = []
        self._submitted = self._taken = 0

    @property
    def waiting(self) -> int:
        """Number of inputs whose results have not been taken."""
        return self._submitted - self._taken

    def submit(self, item: I) -> None:
        """Have a thread call the function, in a copy of the caller's context, which carries its span."""
        self._inputs.put((self._submitted, contextvars.copy_context(), item))
        self._submitted += 1
        if len(self._threads) < self._count:
            # Daemons: one that Ctrl-C keeps from starting does not keep the process from exiting.
            thread = threading.Thread(target=self._work, daemon=True, name=f"tritonclip_{len(self._threads)}")
            _start(thread)
            self._threads.append(thread)

    def has_next(self) -> bool:
        """Return True if the next result is there."""
        while self._taken not in self._early:
            try:
                self._keep(self._outcomes.get_nowait())
            except Empty:
                return False
        return True

    def take_next(self) -> R:
        """Wait for the next result, and return it or raise what the function raised."""
        while not self.has_next():
            with suppress(Empty):
                self._keep(self._outcomes.get(timeout=LONGEST_WAIT_S))
        outcome = self._early.pop(self._taken)
        self._taken += 1
        if outcome.error is not None:
            raise outcome.error
        return cast(R, outcome.result)

    def __enter__(self) -> Workers[I, R]:
        """Return these workers."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Start no more of the inputs, and wait for the running calls, but not after Ctrl-C."""
        with suppress(Empty):
            while True:
                self._inputs.get_nowait()
        for _end in range(self._count):
            self._inputs.put(None)
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            for thread in self._threads:
                thread.join()

    def _keep(self, outcome: _Outcome[R]) -> None:
        self._early[outcome.number] = outcome

    def _work(self) -> None:
        thread = threading.current_thread()
        _at_work.add(thread)
        try:
            while (work := self._inputs.get()) is not None:
                number, context, item = work
                try:
                    outcome = _Outcome(number, result=context.run(self._function, item))
                except BaseException as error:  # raised again by `take_next`
                    outcome = _Outcome(number, error=error)
                self._outcomes.put(outcome)
        finally:
            _at_work.discard(thread)


def _start(thread: threading.Thread) -> None:
    try:
        thread.start()
    except RuntimeError as error:  # what Ctrl-C can become while Python waits for the thread
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


@atexit.register
def _wait_for_running_calls() -> None:
    """Wait, because a thread that returns from a call after the interpreter is gone can crash the process."""
    for thread in list(_at_work):
        thread.join()
