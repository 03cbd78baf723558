"""Where the server is and how to talk to it: one frozen value, argument > environment > default."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict, cast, get_args

from tritonclip._address import DEFAULT_HOST, Protocol, check_address, scheme_of, split_url
from tritonclip._images import fetch
from tritonclip.errors import InvalidInputError

Compression = Literal["gzip", "deflate"]
Preprocess = Literal["server", "client"]

ENV_URL = "TRITONCLIP_URL"
ENV_PROTOCOL = "TRITONCLIP_PROTOCOL"
ENV_TIMEOUT_S = "TRITONCLIP_TIMEOUT_S"
ENV_API_KEY = "TRITONCLIP_API_KEY"
ENV_CA_FILE = "TRITONCLIP_CA_FILE"
ENV_CERT_FILE = "TRITONCLIP_CERT_FILE"
ENV_KEY_FILE = "TRITONCLIP_KEY_FILE"

DEFAULT_PROTOCOL: Protocol = "grpc"
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_ATTEMPTS = 4
MAX_ATTEMPTS = 5
DEFAULT_KEEPALIVE_S = 310.0  # Triton takes pings that come less than 300 s apart for an attack

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OWN_HEADERS = {"content-length", "transfer-encoding", "inference-header-content-length"}


class ClientOptions(TypedDict, total=False):
    """The keyword arguments of the clients; None takes the environment's value or the default.

    Attributes:
        protocol: `grpc` or `http`. None: the URL's scheme, `TRITONCLIP_PROTOCOL`, else gRPC.
        timeout_s: Deadline of a call in seconds, connecting and retries included. None:
            `TRITONCLIP_TIMEOUT_S`, else 30.
        api_key: Sent as `Authorization: Bearer ...`. None: `TRITONCLIP_API_KEY`, else nothing is sent.
        headers: Sent with every request (over gRPC as metadata).
        ca_file: PEM file of the authorities to trust, for `grpcs://` and `https://`. None:
            `TRITONCLIP_CA_FILE`, else those of the system (https) or of gRPC (grpcs).
        cert_file: PEM file of this client's certificate, for mutual TLS. None: `TRITONCLIP_CERT_FILE`.
        key_file: PEM file of its private key. None: `TRITONCLIP_KEY_FILE`.
        compression: `gzip` or `deflate` for requests and answers. Image files hardly shrink; labels, texts
            and pixel values do. None: none.
        attempts: How often a call is tried in all, 1 to 5, where the server is unavailable or the connection
            is lost. 4 unless told otherwise.
        keepalive_s: Seconds between pings on a gRPC connection that waits for an answer. 310 unless told
            otherwise; lower values need a server that allows them.
        preprocess: `server`, or `client` to decode, resize and crop images here, just as the server does.
        fetch_timeout_s: Limit on fetching one image by its URL, in seconds; 10 unless told otherwise.
        fetch_max_bytes: Limit on the size of such an image; 64 MiB unless told otherwise.
    """

    protocol: str | None
    timeout_s: float | None
    api_key: str | None
    headers: Mapping[str, str] | None
    ca_file: str | os.PathLike[str] | None
    cert_file: str | os.PathLike[str] | None
    key_file: str | os.PathLike[str] | None
    compression: str | None
    attempts: int | None
    keepalive_s: float | None
    preprocess: str
    fetch_timeout_s: float
    fetch_max_bytes: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a client; see `ClientOptions` for those that are not told here.

    Attributes:
        urls: One or several `host:port`, over HTTP with an optional `/base/path`; no scheme.
        secure: Whether the connections are encrypted by TLS.
        headers: With the API key's; never shown.
    """

    urls: tuple[str, ...]
    protocol: Protocol
    secure: bool = False
    timeout_s: float = DEFAULT_TIMEOUT_S
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    compression: Compression | None = None
    attempts: int = DEFAULT_ATTEMPTS
    keepalive_s: float = DEFAULT_KEEPALIVE_S
    preprocess: Preprocess = "server"
    fetch_timeout_s: float = fetch.DEFAULT_TIMEOUT_S
    fetch_max_bytes: int = fetch.DEFAULT_MAX_BYTES

    @property
    def scheme(self) -> str:
        """`grpc`, `grpcs`, `http` or `https`."""
        return scheme_of(self.protocol, secure=self.secure)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Every address with the scheme, as `grpc://localhost:8001`."""
        return tuple(f"{self.scheme}://{url}" for url in self.urls)

    @property
    def endpoint(self) -> str:
        """The addresses as one text, separated by commas."""
        return f"{self.scheme}://{','.join(self.urls)}"

    @classmethod
    def from_env(
        cls,
        url: str | None = None,
        *,
        protocol: str | None = None,
        timeout_s: float | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        cert_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        compression: str | None = None,
        attempts: int | None = None,
        keepalive_s: float | None = None,
        preprocess: str = "server",
        fetch_timeout_s: float = fetch.DEFAULT_TIMEOUT_S,
        fetch_max_bytes: int = fetch.DEFAULT_MAX_BYTES,
        environ: Mapping[str, str] | None = None,
    ) -> Settings:
        """Settings from the arguments, then the `TRITONCLIP_*` environment, then the defaults.

        Args:
            url: `host`, `host:port`, several of these separated by commas, or with a scheme in front, which
                sets the protocol and whether TLS is used.
            protocol: See `ClientOptions`, as for all that follow; must agree with the URL's scheme.
            timeout_s: In seconds.
            api_key: Becomes a header.
            headers: Names and values of headers.
            ca_file: Path.
            cert_file: Path.
            key_file: Path.
            compression: `gzip` or `deflate`.
            attempts: 1 to 5.
            keepalive_s: In seconds.
            preprocess: `server` or `client`.
            fetch_timeout_s: In seconds.
            fetch_max_bytes: In bytes.
            environ: The environment; `os.environ` if None.

        Raises:
            InvalidInputError: If a value is malformed, or two contradict each other.
        """
        env = os.environ if environ is None else environ
        found, secure, addresses = split_url(url or env.get(ENV_URL) or DEFAULT_HOST)
        # A scheme in the url argument is itself an argument: it comes before the environment's protocol.
        chosen = protocol or (found if url else None) or env.get(ENV_PROTOCOL) or found or DEFAULT_PROTOCOL
        checked = cast(Protocol, _one_of("protocol", chosen, get_args(Protocol)))
        if found and found != checked:
            raise InvalidInputError(
                f"protocol {checked!r} contradicts the URL {scheme_of(found, secure=secure)}://"
                f"{','.join(addresses)}; give one of them, or make them agree"
            )
        wait = timeout_s if timeout_s is not None else _env_timeout_s(env)
        settings = cls(
            urls=tuple(check_address(address, checked, secure=secure) for address in addresses),
            protocol=checked,
            secure=secure,
            timeout_s=check_seconds("timeout_s", wait),
            headers=check_headers(headers) | _authorization(api_key or env.get(ENV_API_KEY)),
            ca_file=_check_file("ca_file", ca_file or env.get(ENV_CA_FILE)),
            cert_file=_check_file("cert_file", cert_file or env.get(ENV_CERT_FILE)),
            key_file=_check_file("key_file", key_file or env.get(ENV_KEY_FILE)),
            compression=cast(
                "Compression | None",
                compression and _one_of("compression", compression, get_args(Compression)),
            ),
            attempts=check_whole(
                "attempts", DEFAULT_ATTEMPTS if attempts is None else attempts, MAX_ATTEMPTS
            ),
            keepalive_s=check_seconds(
                "keepalive_s", DEFAULT_KEEPALIVE_S if keepalive_s is None else keepalive_s
            ),
            preprocess=cast(Preprocess, _one_of("preprocess", preprocess, get_args(Preprocess))),
            fetch_timeout_s=check_seconds("fetch_timeout_s", fetch_timeout_s),
            fetch_max_bytes=check_whole("fetch_max_bytes", fetch_max_bytes, 2**31),
        )
        _check_tls(settings)
        return settings


def check_seconds(name: str, value: object) -> float:
    """Return a time in seconds, or raise InvalidInputError unless it is finite and above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidInputError(f"{name}: expected seconds as a number, got {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise InvalidInputError(f"{name}: expected finite seconds above 0, got {value!r}")
    return float(value)


def check_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Headers with their names in lower case, as gRPC wants them.

    Raises:
        InvalidInputError: If a name or value is malformed, or the name is one that this client sets itself.
    """
    checked: dict[str, str] = {}
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidInputError(f"headers: {name!r} is no header name; use letters, digits and '-'")
        if name.lower() in _OWN_HEADERS or name.lower().startswith("grpc-"):
            raise InvalidInputError(f"headers: {name!r} is set by the protocol itself; leave it out")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise InvalidInputError(f"headers: the value of {name!r} must be a string of printable ASCII")
        checked[name.lower()] = value
    return checked


def _authorization(api_key: str | None) -> dict[str, str]:
    return check_headers({"authorization": f"Bearer {api_key}"}) if api_key else {}


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise InvalidInputError(f"{name} {value!r}: expected {' or '.join(map(repr, allowed))}")
    return cast(str, value)


def check_whole(name: str, value: object, largest: int) -> int:
    """Return a whole number, or raise InvalidInputError unless it is from 1 to `largest`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise InvalidInputError(f"{name}: expected a whole number from 1 to {largest}, got {value!r}")
    return value


def _check_file(name: str, path: str | os.PathLike[str] | None) -> str | None:
    if path is None or path == "":
        return None
    if not Path(path).is_file():
        raise InvalidInputError(f"{name}: no such file: {os.fspath(path)!r}")
    return os.fspath(path)


def _check_tls(settings: Settings) -> None:
    if (settings.cert_file is None) != (settings.key_file is None):
        raise InvalidInputError("cert_file and key_file belong together; give both or none")
    if not settings.secure and (settings.ca_file or settings.cert_file):
        scheme = scheme_of(settings.protocol, secure=True)
        raise InvalidInputError(f"ca_file, cert_file and key_file need a URL that begins with {scheme}://")


def _env_timeout_s(env: Mapping[str, str]) -> float:
    text = env.get(ENV_TIMEOUT_S)
    if not text:
        return DEFAULT_TIMEOUT_S
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInputError(f"{ENV_TIMEOUT_S}={text!r}: expected seconds as a number") from error
