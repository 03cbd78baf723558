"""The web page, the API documentation, and security headers that limit what a browser may do."""

from __future__ import annotations

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from starlette.datastructures import MutableHeaders
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

WEB = Path(__file__).parent / "web"
SWAGGER = Path(fastapi_offline.__file__).parent / "static"  # Swagger UI, which FastAPI would load from a CDN
_REST = "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    f"manifest-src 'self'; {_REST}"
)
DOCS_POLICY = (
    f"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; {_REST}"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}
router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> FileResponse:
    """Serve the web page."""
    return FileResponse(WEB / "index.html")


@router.get("/docs")
async def docs() -> FileResponse:
    """Serve the interactive API documentation."""
    return FileResponse(WEB / "docs.html")


def mount_files(app: FastAPI) -> None:
    """Serve the static files of both pages."""
    app.mount("/static/swagger", StaticFiles(directory=SWAGGER))
    app.mount("/static", StaticFiles(directory=WEB))


class SecurityHeadersMiddleware:
    """Adds security headers to every response that does not set them itself.

    Args:
        app: The next application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        policy = DOCS_POLICY if path == "/docs" else PAGE_POLICY

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {"Content-Security-Policy": policy, **HEADERS}.items():
                    headers.setdefault(name, value)
                called = path.startswith(("/v1/", "/api/"))
                headers.setdefault("Cache-Control", "no-store" if called else "no-cache")
            await send(message)

        await self._app(scope, receive, send_with_headers)
