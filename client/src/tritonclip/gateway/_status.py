"""What anyone may ask without a key: whether gateway and server are well, the limits, the metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from tritonclip import DEFAULT_HYPOTHESIS_TEMPLATE, DEFAULT_LABELS, Health, __version__
from tritonclip.gateway import _schemas as schemas
from tritonclip.gateway._state import state_of

router = APIRouter(tags=["status"])


@router.get("/v1/info", summary="What is allowed here", response_model=schemas.Info)
async def info(request: Request) -> Response:
    """The limits and defaults, for pages and programs that check before they send."""
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


@router.get("/healthz", summary="Whether the gateway runs", response_model=schemas.Live)
async def healthz() -> Response:
    """For liveness: it asks nobody."""
    return JSONResponse({"status": "ok"})


@router.get(
    "/readyz",
    summary="Whether an image can be classified",
    response_model=schemas.Readiness,
    responses={503: {"model": schemas.Readiness, "description": "It cannot; `reason` says why."}},
)
async def readyz(request: Request) -> Response:
    """For readiness: classifies a tiny image, once a second at most, whoever asks."""
    health = await state_of(request).readiness.ask()
    if isinstance(health, Health):
        ready, inference = health.ok, health.inference
        reason = None if ready else health.reason or "the server or a model is not ready"
    else:
        ready, inference, reason = False, None, health
    content = {"status": "ready" if ready else "not ready", "inference": inference, "reason": reason}
    return JSONResponse(content, 200 if ready else 503)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The metrics."}
    },
)
async def metrics(request: Request) -> Response:
    """Requests by route and status, their times, images and texts, what is under way, and the process."""
    return Response(generate_latest(state_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)
