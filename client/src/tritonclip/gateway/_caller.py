"""Authorisation of callers: API key, rate limit and deadline, as a FastAPI dependency."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from tritonclip._calls.request import Deadline
from tritonclip.gateway._dialect import dialect_of
from tritonclip.gateway._problems import Problem
from tritonclip.gateway._state import State, state_of
from tritonclip.gateway.observability.middleware import note

MIN_TIMEOUT_S = 0.1
_BEARER = HTTPBearer(auto_error=False, description="An API key, if the gateway requires one.")
_KEY = APIKeyHeader(
    name="key", auto_error=False, description="The same API key, in the header that SambaStudio clients use."
)


@dataclass(frozen=True)
class AuthorizedCaller:
    """A caller whose request was authorised.

    Attributes:
        state: The gateway's components.
        deadline: Deadline of the request, counted from the arrival of its headers.
    """

    state: State
    deadline: Deadline


async def authorize(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    key: Annotated[str | None, Depends(_KEY)],
    x_timeout_s: Annotated[
        float | None,
        Header(
            ge=MIN_TIMEOUT_S,
            description="Deadline of the request in seconds, capped at the gateway's own deadline.",
        ),
    ] = None,
) -> AuthorizedCaller:
    """Check the key, apply the rate limit and start the deadline, before the body is read.

    Raises:
        Problem: 401 without a valid key, 429 if the rate limit is exceeded.
    """
    state = state_of(request)
    dialect = dialect_of(request)
    is_open = dialect is not None and dialect.name in state.settings.open_endpoints
    shown = bearer.credentials if bearer else key
    name = None
    if state.keys is not None and not is_open:
        name = state.keys.name_of(shown) if shown else None
        if name is None:
            wrong = "is not valid" if shown else "is missing; send it as 'Authorization: Bearer KEY'"
            raise Problem(status=401, message=f"the API key {wrong}", headers={"WWW-Authenticate": "Bearer"})
    note(request, key=name)
    if state.rates is not None:
        address = request.client.host if request.client else "unknown"
        await state.rates.count(f"key {name}" if name else f"address {address}")
    return AuthorizedCaller(state, Deadline(min(x_timeout_s or math.inf, state.settings.timeout_s)))


Caller = Annotated[AuthorizedCaller, Depends(authorize)]
