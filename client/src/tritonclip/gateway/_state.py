"""The components of a running gateway, available to every route through its request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request

from tritonclip.gateway._inference import Inference
from tritonclip.gateway._settings import GatewaySettings
from tritonclip.gateway.access.keys import KeyRing
from tritonclip.gateway.access.rates import RateLimiter
from tritonclip.gateway.observability.middleware import Metrics
from tritonclip.gateway.observability.readiness import ReadinessCheck
from tritonclip.gateway.payloads.token_arrays import Decode
from tritonclip.gateway.payloads.url_images import UrlImages

if TYPE_CHECKING:
    from tritonclip.search import SearchIndex


@dataclass(frozen=True, kw_only=True)
class State:
    """The gateway's components. An optional one is None if it is switched off."""

    settings: GatewaySettings
    inference: Inference
    readiness: ReadinessCheck
    urls: UrlImages
    keys: KeyRing | None
    rates: RateLimiter | None
    metrics: Metrics
    decode_tokens: Decode | None
    index: SearchIndex | None


def state_of(request: Request) -> State:
    """Return the state of the gateway that serves this request."""
    state: State = request.app.state.gateway
    return state
