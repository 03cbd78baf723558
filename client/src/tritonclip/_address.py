"""The server's URL: its scheme, and one or several `host:port`. Nothing is connected here."""

from __future__ import annotations

from typing import Literal

from tritonclip.errors import InvalidInputError

Protocol = Literal["grpc", "http"]

DEFAULT_HOST = "localhost"
DEFAULT_PORT: dict[str, int] = {"grpc": 8001, "http": 8000, "grpcs": 443, "https": 443}
_SCHEMES: dict[str, tuple[Protocol, bool]] = {
    "grpc": ("grpc", False),
    "http": ("http", False),
    "grpcs": ("grpc", True),
    "https": ("http", True),
}
EXPECTED = "grpc://, grpcs://, http:// or https://"


def split_url(url: str) -> tuple[Protocol | None, bool, list[str]]:
    """Split `scheme://address,address` into its protocol, whether it is encrypted, and the addresses.

    Args:
        url: One or several addresses, separated by commas. A scheme may stand before the first, for all of
            them, or before each.

    Returns:
        The protocol (None without a scheme), True for `grpcs` and `https`, and the addresses.

    Raises:
        InvalidInputError: If a scheme is unknown, the schemes differ, or an address is empty.
    """
    parts = [_split_one(part) for part in url.split(",")]
    schemes = {scheme for scheme, _ in parts[1:] if scheme} | {parts[0][0]}
    if len(schemes) > 1:
        raise InvalidInputError(f"url {url!r}: every address must have the scheme of the first, or none")
    protocol, secure = _SCHEMES[parts[0][0]] if parts[0][0] else (None, False)
    return protocol, secure, [address for _, address in parts]


def _split_one(url: str) -> tuple[str | None, str]:
    scheme, separator, address = url.strip().rpartition("://")
    if separator and scheme not in _SCHEMES:
        raise InvalidInputError(f"url {url!r}: unknown scheme {scheme!r}; use {EXPECTED}")
    address = address.rstrip("/")
    if not address or any(c.isspace() for c in address):
        raise InvalidInputError(f"url {url!r}: expected host:port, for example {DEFAULT_HOST}:8001")
    return scheme or None, address


def check_address(address: str, protocol: Protocol, *, secure: bool) -> str:
    """Add the default port to `host[:port][/path]` if there is none, and check the parts.

    Raises:
        InvalidInputError: If a part is malformed, or there is a path and the protocol is gRPC.
    """
    netloc, slash, path = address.partition("/")
    if slash and protocol == "grpc":
        raise InvalidInputError(f"url {address!r}: gRPC has no paths; give host:port")
    if "@" in netloc or "?" in address or "#" in address:
        raise InvalidInputError(f"url {address!r}: expected host:port without user, query or fragment")
    host, port = split_port(netloc)
    port = port or str(DEFAULT_PORT[scheme_of(protocol, secure=secure)])
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise InvalidInputError(f"url {address!r}: write an IPv6 address in brackets, as [::1]:8001")
    ends_bare = netloc.endswith(":")
    if ends_bare or not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidInputError(f"url {address!r}: expected host:port with a port from 1 to 65535")
    return f"{host}:{port}{slash}{path}"


def split_port(netloc: str) -> tuple[str, str]:
    """Split `host:port` into both; the port is empty where there is none. IPv6 keeps its brackets."""
    host, colon, port = netloc.rpartition(":")
    return (host, port) if colon and not netloc.endswith("]") else (netloc, "")


def scheme_of(protocol: Protocol, *, secure: bool) -> str:
    """`grpc`, `grpcs`, `http` or `https`."""
    return f"{protocol}s" if secure else protocol
