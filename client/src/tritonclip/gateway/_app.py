"""The FastAPI application: components, middleware, routes and error responses."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
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
from tritonclip._messages.text import shown
from tritonclip.errors import InvalidInputError, TritonClipError
from tritonclip.gateway import _pages, _status
from tritonclip.gateway._dialect import dialect_of
from tritonclip.gateway._inference import Inference
from tritonclip.gateway._problems import Problem, problem_of
from tritonclip.gateway._settings import ENV_KEYS, GatewaySettings
from tritonclip.gateway._state import State
from tritonclip.gateway.access.keys import KeyRing, parse_keys
from tritonclip.gateway.access.limits import InFlightLimitMiddleware, too_large
from tritonclip.gateway.access.rates import RateLimiter
from tritonclip.gateway.dialects import DIALECTS
from tritonclip.gateway.observability.middleware import TIMING, Metrics, ObservabilityMiddleware, note
from tritonclip.gateway.observability.readiness import ReadinessCheck
from tritonclip.gateway.observability.tracing import TELEMETRY, flush
from tritonclip.gateway.payloads.openapi import openapi
from tritonclip.gateway.payloads.token_arrays import load_decoder
from tritonclip.gateway.payloads.url_images import UrlImages

if TYPE_CHECKING:
    from tritonclip.search import SearchIndex

ATTEMPTS = 2  # one retry for a lost connection; the caller decides whether to retry a rejected request
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_EXPOSED = ["X-Request-ID", "Retry-After", "Server-Timing", TIMING]


def create_app(settings: GatewaySettings | None = None, url: str | None = None, **client: Any) -> FastAPI:
    """Create the gateway.

    Args:
        settings: Limits and features; None for `GatewaySettings()`.
        url: Triton's address, as for `AsyncClient`. The default protocol is gRPC.
        **client: Further arguments of `AsyncClient` (`ClientOptions`).

    Raises:
        InvalidInputError: If a setting is malformed, `settings.index` names no index, or the encoding of
            `settings.token_arrays` cannot be loaded.
        MissingExtraError: If `settings.token_arrays` is set without the extra `tokens`.
    """
    settings = settings or GatewaySettings()
    _check_open_endpoints(settings.open_endpoints)
    triton = AsyncClient(
        url, **{"attempts": ATTEMPTS, "timeout_s": settings.timeout_s, "timings": True, **client}
    )
    metrics = Metrics()
    keys = KeyRing(parse_keys(settings.keys, ENV_KEYS), settings.keys_file) if settings.needs_key else None
    rates = RateLimiter(settings.rate_limit, settings.rate_storage) if settings.rate_limit else None
    index = _open_index(settings.index)
    decode_tokens = load_decoder(settings.token_arrays) if settings.token_arrays else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with triton:
            urls = UrlImages(settings)
            app.state.gateway = State(
                settings=settings,
                inference=Inference(triton),
                readiness=ReadinessCheck(triton),
                urls=urls,
                keys=keys,
                rates=rates,
                metrics=metrics,
                decode_tokens=decode_tokens,
                index=index,
            )
            yield
            urls.close()
            if index is not None:
                index.close()
        await asyncio.to_thread(flush)  # not at exit: uvicorn re-raises the signal, which ends the process

    app = FastAPI(
        title="tritonclip gateway",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry=TELEMETRY,
    )
    _add_middleware(app, settings, metrics)
    for module in (*DIALECTS, _status, _pages):
        app.include_router(module.router)
    _pages.mount_files(app)
    _add_handlers(app, settings)
    app.openapi = partial(openapi, app, [body for dialect in DIALECTS for body in dialect.BODIES])  # type: ignore[method-assign]
    return app


def _check_open_endpoints(names: Sequence[str]) -> None:
    known = [dialect.DIALECT.name for dialect in DIALECTS]
    for name in names:
        if name not in known:
            raise InvalidInputError(
                f"open_endpoints: {shown(name)} is unknown; give one of {', '.join(known)}"
            )


def _open_index(address: str | None) -> SearchIndex | None:
    if address is None:
        return None
    from tritonclip.search import SearchIndex

    return SearchIndex.open(address)


def _add_middleware(app: FastAPI, settings: GatewaySettings, metrics: Metrics) -> None:
    """Add the middleware, innermost first."""
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_body_bytes)
    app.add_middleware(InFlightLimitMiddleware, settings=settings, metrics=metrics)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "key", "X-Request-ID", "X-Timeout-S"],
            expose_headers=_EXPOSED,
        )
    app.add_middleware(ObservabilityMiddleware, metrics=metrics)
    app.add_middleware(_pages.SecurityHeadersMiddleware)
    app.add_middleware(
        CorrelationIdMiddleware,
        validator=lambda text: bool(_REQUEST_ID.fullmatch(text)),
        update_request_header=False,
    )


def _add_handlers(app: FastAPI, settings: GatewaySettings) -> None:
    def respond(request: Request, problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
        note(request, cause=problem.cause)
        dialect = dialect_of(request)
        body = dialect.error_body(problem) if dialect and dialect.error_body else problem.body
        return JSONResponse(body, problem.status, {**(headers or {}), **problem.headers})

    @app.exception_handler(Problem)
    async def handle_problem(request: Request, problem: Problem) -> JSONResponse:
        return respond(request, problem)

    @app.exception_handler(TritonClipError)
    async def handle_client_error(request: Request, error: TritonClipError) -> JSONResponse:
        return respond(request, problem_of(error))

    @app.exception_handler(HTTPException)
    async def handle_http_error(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 413:
            return respond(request, too_large(settings.max_body_bytes))
        problem = Problem(status=error.status_code, message=_http_error_message(request, error))
        return respond(request, problem, error.headers)

    @app.exception_handler(RequestValidationError)
    async def handle_malformed_parameter(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]  # never about a body, because routes parse their bodies themselves
        place, name = first["loc"][0], str(first["loc"][-1])
        if place == "header":
            name = "-".join(part.capitalize() for part in name.split("-"))
        return respond(request, Problem(status=400, message=f"{name}: {first['msg']}", param=name))


def _http_error_message(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return f"there is nothing at {shown(request.url.path)}; see /docs"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{request.method} is not allowed here, use {allowed}; see /docs"
    return str(error.detail)
