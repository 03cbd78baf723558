"""The parts of a running gateway, which every route reaches through its request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request

from tritonclip.gateway._fetching import UrlImages
from tritonclip.gateway._inference import Inference
from tritonclip.gateway._keys import KeyRing
from tritonclip.gateway._observe import Metrics
from tritonclip.gateway._rates import RateLimiter
from tritonclip.gateway._readiness import Readiness
from tritonclip.gateway._settings import GatewaySettings

if TYPE_CHECKING:
    from tritonclip.search import SearchIndex


@dataclass(frozen=True, kw_only=True)
class State:
    """See each part; None: switched off."""

    settings: GatewaySettings
    inference: Inference
    readiness: Readiness
    urls: UrlImages
    keys: KeyRing | None
    rates: RateLimiter | None
    metrics: Metrics
    index: SearchIndex | None


def state_of(request: Request) -> State:
    """The state of the gateway that got this request."""
    state: State = request.app.state.gateway
    return state
