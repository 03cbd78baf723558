"""The gateway's settings: one frozen value, checked when it is made."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import limits

from tritonclip._images.guard import WEB_PORTS
from tritonclip._settings import check_seconds, check_whole
from tritonclip.errors import InvalidInputError
from tritonclip.gateway._keys import parse_keys

ENV_KEYS = "TRITONCLIP_GATEWAY_KEYS"
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """What the gateway allows.

    Attributes:
        keys: Names and SHA-256 digests of API keys, as `NAME:HEX` separated by commas or white space; see
            `_keys`. Empty, and no file: everyone may call.
        keys_file: The same, one a line. Read anew when it changes.
        rate_limit: Requests of one key, or without keys of one address, as `100/minute`; several separated by
            `;`. None: no limit.
        rate_storage: Where they are counted: `memory://` in this process, or what the package `limits` takes
            for several, as `async+redis://host:6379`.
        max_body_bytes: Of one request.
        max_images: Of one request.
        max_texts: Labels or texts of one request.
        max_requests: Requests under way at once; more are refused with 503.
        max_bytes: Bytes of the bodies of all requests under way; more are refused with 503.
        timeout_s: Deadline of a request in seconds, from its headers to its answer; callers may ask for less.
        body_timeout_s: Seconds that a body may take to arrive.
        allow_urls: Fetch images that a caller names by URL.
        url_networks: Networks that are not public and may be fetched from all the same, as `10.1.0.0/16`.
        url_ports: The ports that a URL may name.
        url_timeout_s: Limit of one fetch in seconds.
        url_max_bytes: Limit of one fetched image.
        index: An index to search in: a directory, or the URL of a collection; see `tritonclip.search`.
        cors_origins: Web pages of other origins that may call, as `https://app.example.com`; `*` for all.

    Raises:
        InvalidInputError: If a value is malformed.
    """

    keys: str = field(default="", repr=False)
    keys_file: Path | None = None
    rate_limit: str | None = None
    rate_storage: str = "memory://"
    max_body_bytes: int = 64 * MIB
    max_images: int = 256
    max_texts: int = 10_000
    max_requests: int = 256
    max_bytes: int = 1024 * MIB
    timeout_s: float = 30.0
    body_timeout_s: float = 60.0
    allow_urls: bool = False
    url_networks: tuple[str, ...] = ()
    url_ports: tuple[int, ...] = WEB_PORTS
    url_timeout_s: float = 10.0
    url_max_bytes: int = 20 * MIB
    index: str | None = None
    cors_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every value."""
        for name in (
            "max_body_bytes",
            "max_images",
            "max_texts",
            "max_requests",
            "max_bytes",
            "url_max_bytes",
        ):
            check_whole(name, getattr(self, name), 2**31)
        for name in ("timeout_s", "body_timeout_s", "url_timeout_s"):
            check_seconds(name, getattr(self, name))
        parse_keys(self.keys, ENV_KEYS)
        if self.keys_file is not None and not self.keys_file.is_file():
            raise InvalidInputError(f"keys_file: no such file: {str(self.keys_file)!r}")
        if self.rate_limit is not None:
            _check_rate(self.rate_limit)
        for network in self.url_networks:
            _check_network(network)

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **settings: object) -> GatewaySettings:
        """Settings with the keys of the environment's TRITONCLIP_GATEWAY_KEYS."""
        return cls(keys=environ.get(ENV_KEYS, ""), **settings)  # type: ignore[arg-type]

    @property
    def needs_key(self) -> bool:
        """Whether callers must show a key."""
        return bool(self.keys.strip()) or self.keys_file is not None


def _check_rate(text: str) -> None:
    try:
        limits.parse_many(text)
    except ValueError as error:
        raise InvalidInputError(f"rate_limit {text!r}: expected a rate as '100/minute'") from error


def _check_network(text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidInputError(f"url_networks: {error}; give a network as '10.1.0.0/16'") from error
