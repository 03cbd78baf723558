"""Where the server is and how long to wait: one frozen value, argument > environment > default."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from tritonclip.errors import InvalidInputError

Protocol = Literal["grpc", "http"]

ENV_URL = "TRITONCLIP_URL"
ENV_PROTOCOL = "TRITONCLIP_PROTOCOL"
ENV_TIMEOUT_S = "TRITONCLIP_TIMEOUT_S"

DEFAULT_PROTOCOL: Protocol = "grpc"
DEFAULT_HOST = "localhost"
DEFAULT_PORT: dict[Protocol, int] = {"grpc": 8001, "http": 8000}
DEFAULT_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a client; equal settings reach the same server the same way.

    Attributes:
        url: `host:port`, over HTTP with an optional `/base/path`; no scheme.
        protocol: `grpc` or `http`.
        timeout_s: Deadline of one call in seconds, above 0.
    """

    url: str
    protocol: Protocol
    timeout_s: float

    @property
    def endpoint(self) -> str:
        """The address with its scheme, as `grpc://localhost:8001`."""
        return f"{self.protocol}://{self.url}"

    @classmethod
    def from_env(
        cls,
        url: str | None = None,
        *,
        protocol: str | None = None,
        timeout_s: float | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Settings:
        """Settings from the arguments, then the `TRITONCLIP_*` environment, then the defaults.

        Args:
            url: `host`, `host:port`, or either with `grpc://` or `http://` in front, which sets the protocol.
            protocol: `grpc` or `http`; must agree with the URL's scheme.
            timeout_s: Deadline of one call in seconds.
            environ: The environment; `os.environ` if None.

        Raises:
            InvalidInputError: If a value is malformed, or the URL's scheme contradicts the protocol.
        """
        env = os.environ if environ is None else environ
        scheme, address = split_url(url or env.get(ENV_URL) or DEFAULT_HOST)
        # A scheme in the url argument is itself an argument: it comes before the environment's protocol.
        chosen = protocol or (scheme if url else None) or env.get(ENV_PROTOCOL) or scheme or DEFAULT_PROTOCOL
        checked = _check_protocol(chosen)
        if scheme and scheme != checked:
            raise InvalidInputError(
                f"protocol {checked!r} contradicts the URL {scheme}://{address}; "
                "give one of them, or make them agree"
            )
        wait = timeout_s if timeout_s is not None else _env_timeout_s(env)
        return cls(url=_with_port(address, checked), protocol=checked, timeout_s=check_timeout_s(wait))


def split_url(url: str) -> tuple[Protocol | None, str]:
    """Split `scheme://address` into its protocol (None without a scheme) and the address."""
    scheme, separator, address = url.strip().rpartition("://")
    if separator and scheme in ("https", "grpcs"):
        raise InvalidInputError(
            f"url {url!r}: encrypted connections are not supported; use grpc:// or http://"
        )
    if separator and scheme not in get_args(Protocol):
        raise InvalidInputError(f"url {url!r}: unknown scheme {scheme!r}; use grpc:// or http://")
    address = address.rstrip("/")
    if not address or any(c.isspace() for c in address):
        raise InvalidInputError(f"url {url!r}: expected host:port, for example {DEFAULT_HOST}:8001")
    return (cast(Protocol, scheme) if separator else None), address


def check_timeout_s(value: float) -> float:
    """Return a deadline in seconds, or raise InvalidInputError unless it is finite and above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidInputError(f"timeout_s: expected seconds as a number, got {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise InvalidInputError(f"timeout_s: expected finite seconds above 0, got {value!r}")
    return float(value)


def _check_protocol(value: str) -> Protocol:
    if value not in get_args(Protocol):
        raise InvalidInputError(f"protocol {value!r}: expected 'grpc' or 'http'")
    return cast(Protocol, value)


def _env_timeout_s(env: Mapping[str, str]) -> float:
    text = env.get(ENV_TIMEOUT_S)
    if not text:
        return DEFAULT_TIMEOUT_S
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInputError(f"{ENV_TIMEOUT_S}={text!r}: expected seconds as a number") from error


def _with_port(address: str, protocol: Protocol) -> str:
    """Add the protocol's default port if there is none, and check the one that is there."""
    netloc, slash, path = address.partition("/")
    if slash and protocol == "grpc":
        raise InvalidInputError(f"url {address!r}: gRPC has no paths; give host:port")
    if "@" in netloc or "?" in address or "#" in address:
        raise InvalidInputError(f"url {address!r}: expected host:port without user, query or fragment")
    host, colon, port = netloc.rpartition(":")
    if not colon or netloc.endswith("]"):
        host, port = netloc, str(DEFAULT_PORT[protocol])
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise InvalidInputError(f"url {address!r}: write an IPv6 address in brackets, as [::1]:8001")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidInputError(f"url {address!r}: expected host:port with a port from 1 to 65535")
    return f"{host}:{port}{slash}{path}"
