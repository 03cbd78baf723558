"""The proxies of the environment: which one a URL or a gRPC server is reached through."""

from __future__ import annotations

import ipaddress
import os
import re
import urllib.parse
import urllib.request
from typing import NamedTuple

GRPC_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")  # in the order of gRPC
_USER_INFO = re.compile(r"//[^/@]*@")


class Proxy(NamedTuple):
    """A proxy and the environment variable that names it."""

    url: str
    variable: str

    def __str__(self) -> str:
        """Return an expression for error texts, without user and password."""
        return f"the proxy {_USER_INFO.sub('//', self.url)} (variable {self.variable})"


def proxy_of_url(url: str) -> Proxy | None:
    """Return the proxy that `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy` set for a URL."""
    proxies = urllib.request.getproxies()
    if not proxies:
        return None
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # the fetch itself reports a malformed URL
        return None
    for name in (parts.scheme.lower(), "all"):
        if address := proxies.get(name):
            host = parts.netloc.rpartition("@")[2]
            if urllib.request.proxy_bypass(host):
                return None
            return Proxy(address if "://" in address else f"http://{address}", f"{name}_proxy")
    return None


def proxy_of_grpc(host: str) -> Proxy | None:
    """Return the proxy that gRPC itself uses for a host."""
    variable = next((name for name in GRPC_VARIABLES if os.environ.get(name)), None)
    if variable is None:
        return None
    exempt = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy") or ""
    if any(_is_exempt(host.strip("[]"), entry.strip()) for entry in exempt.split(",") if entry.strip()):
        return None
    return Proxy(os.environ[variable], variable)


def _is_exempt(host: str, entry: str) -> bool:
    """Compare as gRPC does, by the end of the name or by network."""
    if host.lower().endswith(entry.lower()):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
