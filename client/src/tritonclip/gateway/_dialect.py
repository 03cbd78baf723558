"""What sets a dialect apart for the parts that all of them share: its name, and the form of its errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request, params

from tritonclip.gateway._problems import Problem

ErrorBody = Callable[[Problem], dict[str, Any]]


@dataclass(frozen=True)
class Dialect:
    """An API that the gateway speaks.

    Attributes:
        name: Name in `--open-endpoints`.
        error_body: Gives the body of an error response; None for OpenAI's form.
    """

    name: str
    error_body: ErrorBody | None = None

    def mark(self) -> params.Depends:
        """Return a dependency of the dialect's router, by which `dialect_of` knows each of its requests."""

        async def set_dialect(request: Request) -> None:
            request.state.dialect = self

        return params.Depends(set_dialect)


def dialect_of(request: Request) -> Dialect | None:
    """Return the dialect of a request; None if it has no mark, or reached no route."""
    return getattr(request.state, "dialect", None)
