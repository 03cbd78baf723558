"""Warnings that point at the caller's line, wherever in the package they arise.

A `stacklevel` cannot do that: the depth differs between methods and clients, and a thread or a task of the
package does not have the caller's frames.
"""

from __future__ import annotations

import asyncio
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_SKIPPED = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], Path(asyncio.__file__).parent))


class Caller(NamedTuple):
    """A line of the program that uses the package.

    Attributes:
        file: Path of its file.
        line: Its number.
        namespace: The globals of its module, in which `warnings` keeps what it has shown.
    """

    file: str
    line: int
    namespace: dict[str, Any]


_known: ContextVar[Caller | None] = ContextVar("caller", default=None)


def find_caller() -> Caller:
    """Return the line outside of the package that led here; see also `for_caller`.

    For a coroutine that has a task of its own, this is the line that runs the event loop.
    """
    known = _known.get()
    if known is not None:
        return known
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_SKIPPED):
        frame = frame.f_back
    return Caller(frame.f_code.co_filename, frame.f_lineno, frame.f_globals)


@contextmanager
def for_caller(caller: Caller) -> Iterator[None]:
    """Attribute the warnings of this block to a caller, in a task or thread that works for it."""
    token = _known.set(caller)
    try:
        yield
    finally:
        _known.reset(token)


def from_here(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function for another thread whose warnings point at the current caller."""
    caller = find_caller()

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with for_caller(caller):
            return function(*args, **kwargs)

    return run


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Emit a warning that points at the caller's line."""
    file, line, namespace = find_caller()
    warnings.warn_explicit(
        message,
        category,
        file,
        line,
        module=namespace.get("__name__"),
        registry=namespace.setdefault("__warningregistry__", {}),
    )
