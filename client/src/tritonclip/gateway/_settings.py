"""Settings of the gateway, checked when they are created."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import limits

from tritonclip._images.guard import WEB_PORTS
from tritonclip._settings import check_seconds, check_whole
from tritonclip.errors import InvalidInputError
from tritonclip.gateway.access.keys import parse_keys

ENV_KEYS = "TRITONCLIP_GATEWAY_KEYS"
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """Limits and features of the gateway.

    Attributes:
        keys: Names and SHA-256 digests of API keys, as `NAME:HEX` separated by commas or white space; see
            `access.keys`. Without keys and without a keys file, anyone may call.
        keys_file: A file of such entries, one per line. It is reloaded when it changes.
        rate_limit: Rate limit per key, or per address if there are no keys, such as `100/minute`; several
            are separated by `;`. None for no limit.
        rate_storage: Storage of the rate counters: `memory://` for this process only, or a URI of the
            package `limits` that several gateways share, such as `async+redis://host:6379`.
        max_body_bytes: Limit on the body of one request.
        max_images: Limit on the images of one request.
        max_texts: Limit on the labels or texts of one request.
        max_text_chars: Limit on the characters of these, each label within its template.
        max_requests: Limit on requests in flight; further ones are rejected with 503.
        max_bytes: Limit on the body bytes of all requests in flight; further ones are rejected with 503.
        timeout_s: Deadline of a request in seconds, from its headers to its response. Callers may ask for
            less.
        body_timeout_s: Seconds that a body may take to arrive.
        keep_alive_s: Seconds for which an idle connection is kept, longer than load balancers keep theirs.
        allow_urls: Fetch images that a caller names by URL.
        url_networks: Private networks from which images may be fetched, such as `10.1.0.0/16`.
        url_ports: Ports that an image URL may use.
        url_timeout_s: Timeout of one fetch in seconds.
        url_max_bytes: Limit on the size of one fetched image.
        index: Search index to serve: a directory, or the URL of a collection; see `tritonclip.search`.
        model_aliases: Further names of the served model, for clients that send a fixed one such as
            `text-embedding-3-small`. `NAME=MODEL` is a name only while MODEL is served: its id, or the last
            part of that.
        token_arrays: Encoding of tiktoken in which callers send texts as arrays of tokens, such as
            `cl100k_base`. None to reject such arrays.
        open_endpoints: Dialects that need no key, such as `weaviate`, whose clients cannot send one.
        cors_origins: Other origins whose pages may call, such as `https://app.example.com`; `*` for all.

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
    max_text_chars: int = 8 * MIB
    max_requests: int = 256
    max_bytes: int = 1024 * MIB
    timeout_s: float = 30.0
    body_timeout_s: float = 60.0
    keep_alive_s: int = 75
    allow_urls: bool = False
    url_networks: tuple[str, ...] = ()
    url_ports: tuple[int, ...] = WEB_PORTS
    url_timeout_s: float = 10.0
    url_max_bytes: int = 20 * MIB
    index: str | None = None
    model_aliases: tuple[str, ...] = ()
    token_arrays: str | None = None
    open_endpoints: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every value."""
        for name in (
            "max_body_bytes",
            "max_images",
            "max_texts",
            "max_text_chars",
            "keep_alive_s",
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
        _parse_aliases(self.model_aliases)

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **settings: object) -> GatewaySettings:
        """Create settings with the keys of the environment variable TRITONCLIP_GATEWAY_KEYS."""
        return cls(keys=environ.get(ENV_KEYS, ""), **settings)  # type: ignore[arg-type]

    @property
    def aliases(self) -> dict[str, str | None]:
        """The model that each alias stands for, or None for any."""
        return _parse_aliases(self.model_aliases)

    @property
    def needs_key(self) -> bool:
        """True if callers must send a key."""
        return bool(self.keys.strip()) or self.keys_file is not None


def _parse_aliases(entries: tuple[str, ...]) -> dict[str, str | None]:
    aliases: dict[str, str | None] = {}
    for entry in entries:
        name, equals, model = entry.partition("=")
        if not name.strip() or (equals and not model.strip()):
            raise InvalidInputError(f"model_aliases: {entry!r}: expected NAME or NAME=MODEL")
        if aliases.setdefault(name, model or None) != (model or None):
            raise InvalidInputError(f"model_aliases: {name!r} stands for several models; give it once")
    return aliases


def _check_rate(text: str) -> None:
    try:
        limits.parse_many(text)
    except ValueError as error:
        raise InvalidInputError(f"rate_limit {text!r}: expected a rate such as '100/minute'") from error


def _check_network(text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidInputError(f"url_networks: {error}; give a network such as '10.1.0.0/16'") from error
