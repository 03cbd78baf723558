"""Routes that need no key: limits, liveness, readiness and metrics."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from tritonclip import DEFAULT_HYPOTHESIS_TEMPLATE, DEFAULT_LABELS, Health, __version__
from tritonclip._calls.request import Deadline
from tritonclip.gateway._models import unserved_aliases
from tritonclip.gateway._state import State, state_of
from tritonclip.gateway.observability.readiness import TIMEOUT_S, describe_unready

router = APIRouter(tags=["status"])


class Info(BaseModel):
    """Limits and defaults of the gateway."""

    version: str = Field(examples=["0.1.0"])
    keys_required: bool
    url_input: bool
    max_body_bytes: int
    max_images: int
    max_labels: int
    hypothesis_template: str
    default_labels: list[str]
    search: bool = Field(description="True if the gateway serves a search index.")


class Live(BaseModel):
    """Liveness of the gateway."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Readiness to classify images."""

    status: Literal["ready", "not ready"]
    inference: Literal["ok", "overloaded", "timeout", "failed"] | None = Field(
        description="Result of a real inference. An overloaded server counts as ready."
    )
    reason: str | None


_READINESS: dict[str, Any] = {
    "response_model": Readiness,
    "responses": {503: {"model": Readiness, "description": "Not ready; `reason` says why."}},
}


@router.get("/v1/info", summary="Get limits and defaults", response_model=Info)
async def info(request: Request) -> Response:
    """Return the limits and defaults, so that pages and programs can check input before they send it."""
    settings = state_of(request).settings
    return JSONResponse(
        {
            "version": __version__,
            "keys_required": settings.needs_key,
            "url_input": settings.allow_urls,
            "max_body_bytes": settings.max_body_bytes,
            "max_images": settings.max_images,
            "max_labels": settings.max_texts,
            "hypothesis_template": DEFAULT_HYPOTHESIS_TEMPLATE,
            "default_labels": list(DEFAULT_LABELS),
            "search": settings.index is not None,
        }
    )


@router.get("/v1/health/live", summary="Check liveness, as of NVIDIA NIM", response_model=Live)
@router.get("/healthz", summary="Check liveness", response_model=Live)
async def healthz() -> Response:
    """Return 200 while the gateway runs, without asking Triton."""
    return JSONResponse({"status": "ok"})


@router.get("/health", summary="Check readiness, as of TEI, vLLM and infinity", **_READINESS)
@router.get("/v1/health/ready", summary="Check readiness, as of NVIDIA NIM", **_READINESS)
@router.get("/readyz", summary="Check readiness", **_READINESS)
async def readyz(request: Request) -> Response:
    """Classify a tiny image, at most once per second however many callers ask."""
    state = state_of(request)
    health = await state.readiness.health()
    reason = await reason_unready(state, health)
    inference = health.inference if isinstance(health, Health) else None
    content = {"status": "not ready" if reason else "ready", "inference": inference, "reason": reason}
    return JSONResponse(content, 503 if reason else 200)


async def reason_unready(state: State, health: Health | str) -> str | None:
    """Return why the gateway is not ready to classify images, or None if it is.

    Args:
        state: The gateway's components.
        health: Result of `state.readiness`.
    """
    if not isinstance(health, Health):
        return health
    if not health.ok:
        return describe_unready(health)
    return "; ".join(await _wrong_aliases(state)) or None


@router.get(
    "/metrics",
    summary="Get Prometheus metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The metrics."}
    },
)
async def metrics(request: Request) -> Response:
    """Return request counts and times, images, texts, requests in flight, and process metrics."""
    return Response(generate_latest(state_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def _wrong_aliases(state: State) -> list[str]:
    """Return an error text for each alias that stands for a model that is not served."""
    if not any(state.settings.aliases.values()):
        return []
    model = await state.inference.model(Deadline(TIMEOUT_S))
    return list(unserved_aliases(model, state.settings).values())
