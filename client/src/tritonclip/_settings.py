"""Settings of a client: the server's URL and the client's options, checked, in one frozen value.

An argument comes before its environment variable, which comes before the default. Nothing connects here.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast, get_args

from tritonclip._images import fetch
from tritonclip._messages.text import shown
from tritonclip.errors import InvalidInputError

if TYPE_CHECKING:
    from typing_extensions import Unpack

Protocol = Literal["grpc", "http"]
Compression = Literal["gzip", "deflate"]
Preprocess = Literal["server", "client"]

ENV_URL = "TRITONCLIP_URL"
ENV_PROTOCOL = "TRITONCLIP_PROTOCOL"
ENV_TIMEOUT_S = "TRITONCLIP_TIMEOUT_S"
ENV_API_KEY = "TRITONCLIP_API_KEY"
ENV_CA_FILE = "TRITONCLIP_CA_FILE"
ENV_CERT_FILE = "TRITONCLIP_CERT_FILE"
ENV_KEY_FILE = "TRITONCLIP_KEY_FILE"

DEFAULT_HOST = "localhost"
DEFAULT_PORT: dict[str, int] = {"grpc": 8001, "http": 8000, "grpcs": 443, "https": 443}
DEFAULT_PROTOCOL: Protocol = "grpc"
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_ATTEMPTS = 4
MAX_ATTEMPTS = 5
DEFAULT_KEEPALIVE_S = 310.0  # Triton treats pings less than 300 s apart as abuse
MAX_FETCH_BYTES = 2**31

_SCHEMES: dict[str, tuple[Protocol, bool]] = {
    "grpc": ("grpc", False),
    "http": ("http", False),
    "grpcs": ("grpc", True),
    "https": ("http", True),
}
_EXPECTED_SCHEMES = "grpc://, grpcs://, http:// or https://"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PROTOCOL_HEADERS = {"content-length", "transfer-encoding", "inference-header-content-length"}


class ClientOptions(TypedDict, total=False):
    """The keyword arguments of the clients; None takes the environment variable's value or the default.

    Attributes:
        protocol: `grpc` or `http`. None: the URL's scheme, `TRITONCLIP_PROTOCOL`, else gRPC.
        timeout_s: Deadline of a call in seconds, including connecting and retries. None:
            `TRITONCLIP_TIMEOUT_S`, else 30.
        api_key: Sent as `Authorization: Bearer ...`. None: `TRITONCLIP_API_KEY`, else nothing is sent.
        headers: Sent with every request (over gRPC as metadata).
        ca_file: PEM file of the authorities to trust, for `grpcs://` and `https://`. None:
            `TRITONCLIP_CA_FILE`, else those of the system (https) or of gRPC (grpcs).
        cert_file: PEM file of this client's certificate, for mutual TLS. None: `TRITONCLIP_CERT_FILE`.
        key_file: PEM file of its private key. None: `TRITONCLIP_KEY_FILE`.
        compression: `gzip` or `deflate`, for requests and responses. Image files hardly shrink; labels, texts
            and pixel values do. Default: none.
        attempts: Maximum number of attempts per call, 1 to 5, if the server is unavailable or the connection
            is lost. Default: 4.
        keepalive_s: Seconds between pings on a gRPC connection that waits for a response. Lower values need
            a server that allows them. Default: 310.
        preprocess: `server`, or `client` to decode, resize and crop images in the client, exactly as the
            server does. Default: `server`.
        fetch_timeout_s: Limit on fetching one image by URL, in seconds. Default: 10.
        fetch_max_bytes: Limit on the size of such an image. Default: 64 MiB.
        timings: True to measure where the time of each call goes: `Predictions.timings`, `collect_timings`.
            Default: False.
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
    timings: bool


def check_seconds(name: str, value: object) -> float:
    """Return a time in seconds, or raise InvalidInputError unless it is finite and above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidInputError(f"{name}: expected seconds as a number, got {value!r:.100}")
    if not (math.isfinite(value) and value > 0):
        raise InvalidInputError(f"{name}: expected finite seconds above 0, got {value!r:.100}")
    return float(value)


def check_whole(name: str, value: object, largest: int) -> int:
    """Return a whole number, or raise InvalidInputError unless it is from 1 to `largest`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise InvalidInputError(f"{name}: expected a whole number from 1 to {largest}, got {value!r:.100}")
    return value


def check_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return the headers with lower-case names, as gRPC requires.

    Raises:
        InvalidInputError: A name or value is malformed, or the name is one that the protocol sets itself.
    """
    checked: dict[str, str] = {}
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidInputError(
                f"headers: {name!r:.100} is not a header name; use letters, digits and '-'"
            )
        if name.lower() in _PROTOCOL_HEADERS or name.lower().startswith("grpc-"):
            raise InvalidInputError(f"headers: {name!r} is set by the protocol itself; leave it out")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise InvalidInputError(f"headers: the value of {name!r} must be a string of printable ASCII")
        checked[name.lower()] = value
    return checked


def _check_flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInputError(f"{name}: expected True or False, got {value!r:.100}")
    return value


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise InvalidInputError(f"{name} {value!r}: expected {' or '.join(map(repr, choices))}")
    return value


def _check_file(name: str, path: str | os.PathLike[str]) -> str:
    if not Path(path).is_file():
        raise InvalidInputError(f"{name}: no such file: {os.fspath(path)!r}")
    return os.fspath(path)


def _parse_seconds(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInputError(f"{name}={shown(text)}: expected seconds as a number") from error


@dataclass(frozen=True)
class _Option:
    """The environment variable of an option, and the functions that parse and check a value.

    `parse` gets the variable's name and text, `check` the option's name and value.
    """

    check: Callable[[str, Any], Any]
    variable: str | None = None
    parse: Callable[[str, str], Any] = lambda name, text: text

    def resolve(self, name: str, value: object, default: Any, environ: Mapping[str, str]) -> Any:
        """Return the checked argument, else the checked variable, else the default."""
        if value is None or value == "":
            text = environ.get(self.variable) if self.variable else None
            if not text:
                return default
            value = self.parse(cast(str, self.variable), text)
        return self.check(name, value)


def _option(
    check: Callable[[str, Any], Any],
    default: Any,
    variable: str | None = None,
    parse: Callable[[str, str], Any] = lambda name, text: text,
) -> Any:
    """Declare a field of `Settings` that an option of the same name sets."""
    return field(default=default, metadata={"option": _Option(check, variable, parse)})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a client; `ClientOptions` documents those that are not listed here.

    Attributes:
        urls: One or several `host:port`, over HTTP with an optional `/base/path`, without a scheme.
        secure: True if the connections use TLS.
        headers: The headers of every request, including the API key's; never shown.
    """

    urls: tuple[str, ...]
    protocol: Protocol
    secure: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = _option(check_seconds, DEFAULT_TIMEOUT_S, ENV_TIMEOUT_S, _parse_seconds)
    ca_file: str | None = _option(_check_file, None, ENV_CA_FILE)
    cert_file: str | None = _option(_check_file, None, ENV_CERT_FILE)
    key_file: str | None = _option(_check_file, None, ENV_KEY_FILE)
    compression: Compression | None = _option(
        functools.partial(_check_choice, choices=get_args(Compression)), None
    )
    attempts: int = _option(functools.partial(check_whole, largest=MAX_ATTEMPTS), DEFAULT_ATTEMPTS)
    keepalive_s: float = _option(check_seconds, DEFAULT_KEEPALIVE_S)
    preprocess: Preprocess = _option(functools.partial(_check_choice, choices=get_args(Preprocess)), "server")
    fetch_timeout_s: float = _option(check_seconds, fetch.DEFAULT_TIMEOUT_S)
    fetch_max_bytes: int = _option(
        functools.partial(check_whole, largest=MAX_FETCH_BYTES), fetch.DEFAULT_MAX_BYTES
    )
    timings: bool = _option(_check_flag, False)

    @property
    def scheme(self) -> str:
        """`grpc`, `grpcs`, `http` or `https`."""
        return scheme_of(self.protocol, secure=self.secure)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Every address with its scheme, such as `grpc://localhost:8001`."""
        return tuple(f"{self.scheme}://{url}" for url in self.urls)

    @functools.cached_property
    def endpoint(self) -> str:
        """The addresses as one text, separated by commas."""
        return f"{self.scheme}://{','.join(self.urls)}"

    @classmethod
    def from_env(
        cls,
        url: str | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        **options: Unpack[ClientOptions],
    ) -> Settings:
        """Resolve settings from the arguments, the `TRITONCLIP_*` environment variables and the defaults.

        Args:
            url: `host`, `host:port` or several of these separated by commas. A scheme in front sets the
                protocol and TLS.
            environ: The environment; `os.environ` if None.
            **options: See `ClientOptions`.

        Raises:
            InvalidInputError: A value is malformed, or two contradict each other.
            TypeError: There is no such option.
        """
        if unknown := options.keys() - ClientOptions.__annotations__.keys():
            raise TypeError(f"unknown options: {', '.join(sorted(unknown))}")
        environ = os.environ if environ is None else environ
        scheme, secure, addresses = split_url(url or environ.get(ENV_URL) or DEFAULT_HOST)
        protocol = _resolve_protocol(url, scheme, options.get("protocol"), environ)
        if scheme and scheme != protocol:
            raise InvalidInputError(
                f"protocol {protocol!r} contradicts the URL {scheme_of(scheme, secure=secure)}://"
                f"{','.join(addresses)}; give one of them, or make them agree"
            )
        api_key = options.get("api_key") or environ.get(ENV_API_KEY)
        key_header = check_headers({"authorization": f"Bearer {api_key}"}) if api_key else {}
        given: Mapping[str, object] = {**options}
        settings = cls(
            urls=tuple(check_address(address, protocol, secure=secure) for address in addresses),
            protocol=protocol,
            secure=secure,
            headers=check_headers(options.get("headers")) | key_header,
            **{
                one.name: one.metadata["option"].resolve(one.name, given.get(one.name), one.default, environ)
                for one in dataclasses.fields(cls)
                if "option" in one.metadata
            },
        )
        _check_tls(settings)
        return settings


def _resolve_protocol(
    url: str | None, scheme: Protocol | None, argument: str | None, environ: Mapping[str, str]
) -> Protocol:
    # A scheme in the url argument is itself an argument, so it comes before the environment variable.
    chosen = argument or (scheme if url else None) or environ.get(ENV_PROTOCOL) or scheme or DEFAULT_PROTOCOL
    return cast(Protocol, _check_choice("protocol", chosen, get_args(Protocol)))


def _check_tls(settings: Settings) -> None:
    if (settings.cert_file is None) != (settings.key_file is None):
        raise InvalidInputError("cert_file and key_file belong together; give both or none")
    if not settings.secure and (settings.ca_file or settings.cert_file):
        scheme = scheme_of(settings.protocol, secure=True)
        raise InvalidInputError(f"ca_file, cert_file and key_file need a URL that begins with {scheme}://")


def split_url(url: str) -> tuple[Protocol | None, bool, list[str]]:
    """Split `scheme://address,address` into protocol, TLS and addresses.

    Args:
        url: One or several addresses, separated by commas. A scheme may precede the first, for all of them,
            or each.

    Returns:
        The protocol (None without a scheme), True for `grpcs` and `https`, and the addresses.

    Raises:
        InvalidInputError: A scheme is unknown, the schemes differ, or an address is empty.
    """
    parts = [_split_one(part) for part in url.split(",")]
    schemes = {scheme for scheme, _ in parts[1:] if scheme} | {parts[0][0]}
    if len(schemes) > 1:
        raise InvalidInputError(f"url {shown(url)}: every address must have the scheme of the first, or none")
    protocol, secure = _SCHEMES[parts[0][0]] if parts[0][0] else (None, False)
    return protocol, secure, [address for _, address in parts]


def _split_one(url: str) -> tuple[str | None, str]:
    scheme, separator, address = url.strip().rpartition("://")
    if separator and scheme not in _SCHEMES:
        raise InvalidInputError(f"url {shown(url)}: unknown scheme {shown(scheme)}; use {_EXPECTED_SCHEMES}")
    address = address.rstrip("/")
    if not address or any(c.isspace() for c in address):
        raise InvalidInputError(f"url {shown(url)}: expected host:port, for example {DEFAULT_HOST}:8001")
    return scheme or None, address


def check_address(address: str, protocol: Protocol, *, secure: bool) -> str:
    """Check `host[:port][/path]`, and add the default port if it has none.

    Raises:
        InvalidInputError: A part is malformed, or there is a path and the protocol is gRPC.
    """
    netloc, slash, path = address.partition("/")
    if slash and protocol == "grpc":
        raise InvalidInputError(f"url {shown(address)}: gRPC has no paths; give host:port")
    if "@" in netloc or "?" in address or "#" in address:
        raise InvalidInputError(f"url {shown(address)}: expected host:port without user, query or fragment")
    host, port = split_port(netloc)
    port = port or str(DEFAULT_PORT[scheme_of(protocol, secure=secure)])
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise InvalidInputError(
            f"url {shown(address)}: write an IPv6 address in brackets, such as [::1]:8001"
        )
    ends_bare = netloc.endswith(":")
    if ends_bare or not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidInputError(f"url {shown(address)}: expected host:port with a port from 1 to 65535")
    return f"{host}:{port}{slash}{path}"


def split_port(netloc: str) -> tuple[str, str]:
    """Split `host:port`; the port is empty if there is none. An IPv6 address keeps its brackets."""
    host, colon, port = netloc.rpartition(":")
    return (host, port) if colon and not netloc.endswith("]") else (netloc, "")


def scheme_of(protocol: Protocol, *, secure: bool) -> str:
    """Return `grpc`, `grpcs`, `http` or `https`."""
    return f"{protocol}s" if secure else protocol
