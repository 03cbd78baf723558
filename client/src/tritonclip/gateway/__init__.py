"""A REST gateway in front of Triton: JSON and forms for curl, browsers and OpenAI's clients, and a web page.

    tritonclip gateway --url localhost:8001

or, to run it elsewhere, `create_app(GatewaySettings(), url="localhost:8001")`, a FastAPI application. It
holds no model, and no state beside counters, so any number may run. `pip install "tritonclip[gateway]"`.
"""

from __future__ import annotations

from tritonclip.errors import MissingExtraError

try:
    from tritonclip.gateway._app import create_app
    from tritonclip.gateway._settings import GatewaySettings
except ModuleNotFoundError as error:
    if (error.name or "").startswith("tritonclip"):
        raise
    raise MissingExtraError(
        f'the gateway needs {error.name}; install it with: pip install "tritonclip[gateway]"'
    ) from error

__all__ = ["GatewaySettings", "create_app"]
