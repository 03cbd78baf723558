"""Texts for a port that speaks another protocol than the URL says, with the URL to try.

The patterns are what gRPC, gevent and aiohttp report for Triton's ports and for an HTTP server such as the
gateway.
"""

from __future__ import annotations

import re

# gRPC at uvicorn: "Failed parsing HTTP/2 (...) (Trying to connect an http1.x server (HTTP status 400))".
_HTTP_SERVER = re.compile(r"Trying to connect an http1\.x server|Failed parsing HTTP/2")
# gRPC at Triton's HTTP port, which closes a connection whose first bytes are not HTTP/1.
_CLOSED_AT_ONCE = re.compile(r"connections to all backends failing.*: Socket closed$")
_NOT_HTTP = re.compile(r"Expected HTTP/")
_NOT_TLS = re.compile(r"WRONG_VERSION_NUMBER")
_TRITONS_404 = re.compile(r"unknown model|^no message$")


def wrong_port_message(endpoint: str, status: str, text: str) -> str | None:
    """Return the error text if a call failed because the port speaks another protocol, else None.

    Args:
        endpoint: The server's address, such as `grpc://host:port`.
        status: The gRPC status name or HTTP code of the failure.
        text: The library's text of the failure.
    """
    scheme, _, address = endpoint.partition("://")
    if scheme.endswith("s"):
        if _NOT_TLS.search(text):
            return f"the port does not use TLS; give {scheme[:-1]}://{address}, or the port that does"
        return None
    if scheme == "grpc":
        if _HTTP_SERVER.search(text):
            return (
                f"this is the port of an HTTP server, such as the gateway, and not Triton's gRPC port; give "
                f"{_with_port(address, 8001)} for gRPC, or http://{address} if it is the gateway or Triton's "
                "HTTP port"
            )
        if _CLOSED_AT_ONCE.search(text):
            return (
                "the server closed the connection. Try again shortly; if that does not help, check the URL "
                f"and the port: if it is Triton's HTTP port, give http://{address}, or "
                f"{_with_port(address, 8001)} for gRPC; if it uses TLS, give grpcs://{address}"
            )
        return None
    if _NOT_HTTP.search(text):
        return (
            f"this is not an HTTP port; if it is Triton's gRPC port, give grpc://{address}, or "
            f"{_with_port(address, 8000, 'http')} for HTTP; if it uses TLS, give https://{address}"
        )
    if status == "404" and not _TRITONS_404.search(text):
        own_ports = f"{_with_port(address, 8001)} for gRPC, or {_with_port(address, 8000, 'http')} for HTTP"
        return (
            "an HTTP server answers here, but it is neither Triton nor the gateway; give the gateway's port, "
            f"or Triton's own: {own_ports}; if it is behind a proxy, check the path in the URL"
        )
    return None


def _with_port(address: str, port: int, scheme: str = "grpc") -> str:
    """Return the URL of the first address with Triton's default port of a protocol."""
    netloc = address.split(",", 1)[0].partition("/")[0]
    host = netloc.rpartition(":")[0] or netloc
    return f"{scheme}://{host}:{port}"
