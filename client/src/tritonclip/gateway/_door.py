"""What every route's caller passes first: the key, the rate, the deadline. Dependencies of FastAPI."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from tritonclip._calls.request import Deadline
from tritonclip.gateway._observe import note
from tritonclip.gateway._problems import Problem
from tritonclip.gateway._state import State, state_of

MIN_TIMEOUT_S = 0.1
_BEARER = HTTPBearer(auto_error=False, description="An API key, where the gateway has any.")
_KEY = APIKeyHeader(name="key", auto_error=False, description="The same, as SambaStudio's clients send it.")


@dataclass(frozen=True)
class Admitted:
    """A caller who may call.

    Attributes:
        state: The gateway's parts.
        deadline: Running since the headers came.
    """

    state: State
    deadline: Deadline


async def admit(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
    key: Annotated[str | None, Depends(_KEY)],
    x_timeout_s: Annotated[
        float | None,
        Header(
            ge=MIN_TIMEOUT_S, description="Seconds the caller will wait; at most the gateway's own deadline."
        ),
    ] = None,
) -> Admitted:
    """Check the key, count the request, and start its deadline; before any of its body is read.

    Raises:
        Problem: 401 without a valid key, 429 where the rate is too high.
    """
    state = state_of(request)
    shown = bearer.credentials if bearer else key
    name = None
    if state.keys is not None:
        name = state.keys.name_of(shown) if shown else None
        if name is None:
            wrong = "is not valid" if shown else "is missing; send it as 'Authorization: Bearer KEY'"
            raise Problem(status=401, message=f"the API key {wrong}", headers={"WWW-Authenticate": "Bearer"})
    note(request, key=name)
    if state.rates is not None:
        address = request.client.host if request.client else "unknown"
        await state.rates.admit(f"key {name}" if name else f"address {address}")
    return Admitted(state, Deadline(min(x_timeout_s or math.inf, state.settings.timeout_s)))


Caller = Annotated[Admitted, Depends(admit)]
