"""A REST gateway in front of Triton, with JSON and form APIs, OpenAI compatibility and a web page.

    tritonclip gateway --url localhost:8001

To run it on another ASGI server, call `create_app(GatewaySettings(), url="localhost:8001")`, which returns a
FastAPI application. The gateway holds no model and no state except counters, so it can be replicated freely.
Install it with `pip install "tritonclip[gateway]"`.
"""

from __future__ import annotations

from tritonclip.errors import MissingExtraError, install_command

try:
    from tritonclip.gateway._app import create_app
    from tritonclip.gateway._settings import GatewaySettings
except ModuleNotFoundError as error:
    if (error.name or "").startswith("tritonclip"):
        raise
    raise MissingExtraError(
        f"the gateway needs {error.name}; install it with: {install_command('gateway')}"
    ) from error

__all__ = ["GatewaySettings", "create_app"]
