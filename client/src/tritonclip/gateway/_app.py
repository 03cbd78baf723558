"""The application: its parts, its middleware, its routes, and how its errors look."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.cors import CORSMiddleware

from tritonclip import AsyncClient, __version__
from tritonclip.errors import TritonClipError
from tritonclip.gateway import _native, _openai, _pages, _sambastudio, _search, _status
from tritonclip.gateway._fetching import UrlImages
from tritonclip.gateway._inference import Inference
from tritonclip.gateway._keys import KeyRing, parse_keys
from tritonclip.gateway._limits import Limited, too_large
from tritonclip.gateway._observe import Metrics, Observed, note
from tritonclip.gateway._problems import Problem, problem_of
from tritonclip.gateway._rates import RateLimiter
from tritonclip.gateway._readiness import Readiness
from tritonclip.gateway._routing import openapi
from tritonclip.gateway._settings import ENV_KEYS, GatewaySettings
from tritonclip.gateway._state import State
from tritonclip.gateway._telemetry import TELEMETRY, flush

if TYPE_CHECKING:
    from tritonclip.search import SearchIndex

ATTEMPTS = 2  # one more where a connection is lost; what the server refuses is the caller's to try again
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_EXPOSED = ["X-Request-ID", "Retry-After", "Server-Timing"]


def create_app(settings: GatewaySettings | None = None, url: str | None = None, **client: Any) -> FastAPI:
    """Make the gateway.

    Args:
        settings: What it allows; None: `GatewaySettings()`.
        url: Triton's address, as for `AsyncClient`; over gRPC unless it says otherwise.
        **client: Further arguments of `AsyncClient` (`ClientOptions`).

    Raises:
        InvalidInputError: If a setting is malformed, or there is no index where it names one.
    """
    settings = settings or GatewaySettings()
    triton = AsyncClient(url, **{"attempts": ATTEMPTS, "timeout_s": settings.timeout_s, **client})
    metrics = Metrics()
    keys = KeyRing(parse_keys(settings.keys, ENV_KEYS), settings.keys_file) if settings.needs_key else None
    rates = RateLimiter(settings.rate_limit, settings.rate_storage) if settings.rate_limit else None
    index = _open_index(settings.index)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with triton:
            urls = UrlImages(settings)
            app.state.gateway = State(
                settings=settings,
                inference=Inference(triton),
                readiness=Readiness(triton),
                urls=urls,
                keys=keys,
                rates=rates,
                metrics=metrics,
                index=index,
            )
            yield
            urls.close()
            if index is not None:
                index.close()
        await asyncio.to_thread(flush)  # here, because uvicorn ends its process by the signal that it got

    app = FastAPI(
        title="tritonclip gateway",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry=TELEMETRY,
    )
    _add_middleware(app, settings, metrics)
    for module in (_native, _openai, _sambastudio, _search, _status, _pages):
        app.include_router(module.router)
    _pages.mount_files(app)
    _add_handlers(app, settings)
    app.openapi = partial(openapi, app)  # type: ignore[method-assign]
    return app


def _open_index(place: str | None) -> SearchIndex | None:
    if place is None:
        return None
    from tritonclip.search import SearchIndex

    return SearchIndex.open(place)


def _add_middleware(app: FastAPI, settings: GatewaySettings, metrics: Metrics) -> None:
    """The last that is added sees a request first."""
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_body_bytes)
    app.add_middleware(Limited, settings=settings, metrics=metrics)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "key", "X-Request-ID", "X-Timeout-S"],
            expose_headers=_EXPOSED,
        )
    app.add_middleware(Observed, metrics=metrics)
    app.add_middleware(_pages.SecurityHeaders)
    app.add_middleware(
        CorrelationIdMiddleware,
        validator=lambda text: bool(_REQUEST_ID.fullmatch(text)),
        update_request_header=False,
    )


def _add_handlers(app: FastAPI, settings: GatewaySettings) -> None:
    def answer(request: Request, problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
        note(request, cause=problem.cause)
        return JSONResponse(problem.body, problem.status, {**(headers or {}), **problem.headers})

    @app.exception_handler(Problem)
    async def told(request: Request, problem: Problem) -> JSONResponse:
        return answer(request, problem)

    @app.exception_handler(TritonClipError)
    async def failed(request: Request, error: TritonClipError) -> JSONResponse:
        return answer(request, problem_of(error))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 413:
            return answer(request, too_large(settings.max_body_bytes))
        problem = Problem(status=error.status_code, message=_advice(request, error))
        return answer(request, problem, error.headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]  # of a header; bodies are read elsewhere
        place = "-".join(part.capitalize() for part in str(first["loc"][-1]).split("-"))
        return answer(request, Problem(status=400, message=f"{place}: {first['msg']}", param=place))


def _advice(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return f"there is nothing at {request.url.path[:200]!r}; see /docs"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{request.method} is not possible here, {allowed} is; see /docs"
    return str(error.detail)
