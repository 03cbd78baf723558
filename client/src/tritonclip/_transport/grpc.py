"""gRPC by one shared `tritonclient` client, which is safe for threads as long as nothing streams."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tenacity
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tritonclip._calls.request import Request
from tritonclip._calls.wire import Model, Tensor
from tritonclip._retry import FIRST_WAIT_S, MAX_WAIT_S, within
from tritonclip._settings import Settings, split_port
from tritonclip._transport.base import (
    build_request,
    call_failure,
    grpc_parameters,
    infer_options,
    read_answer,
)
from tritonclip._types import Answer, Tensors
from tritonclip.errors import ServerUnavailableError

T = TypeVar("T")

SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})  # over all addresses
KEEPALIVE_TIMEOUT_MS = 20_000  # also how long Linux waits for a lost host to take what was sent


def client_options(settings: Settings) -> dict[str, Any]:
    """The arguments of `tritonclient`'s gRPC clients, with and without asyncio.

    Raises:
        ServerUnavailableError: If one of several host names cannot be resolved.
    """
    target, authority = resolve(settings)
    return {
        "url": target,
        "channel_args": channel_args(settings) + authority,
        "ssl": settings.secure,
        "root_certificates": settings.ca_file,
        "private_key": settings.key_file,
        "certificate_chain": settings.cert_file,
    }


def channel_args(settings: Settings) -> list[tuple[str, Any]]:
    """The channel's options. They replace tritonclient's own, so its message sizes are said again."""
    return [
        ("grpc.max_send_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
        ("grpc.max_receive_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
        ("grpc.keepalive_time_ms", int(settings.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.service_config", SERVICE_CONFIG),
        ("grpc.service_config_disable_resolution", 1),
        # After a failure calls fail until gRPC connects again: by default after 1 s, then up to 120 s.
        ("grpc.initial_reconnect_backoff_ms", int(FIRST_WAIT_S * 1000)),
        ("grpc.max_reconnect_backoff_ms", int(MAX_WAIT_S * 1000)),
        # A lost connection has the name resolved anew, by default once in 30 s at most: too late where a
        # server was replaced by one with another address.
        ("grpc.dns_min_time_between_resolutions_ms", int(MAX_WAIT_S * 1000)),
    ]


def resolve(settings: Settings) -> tuple[str, list[tuple[str, Any]]]:
    """What gRPC is to connect to, and the channel options that this needs.

    One name is left to gRPC, which spreads the calls over all its addresses and asks again when they change.
    gRPC takes no list of names, so several are resolved here; their certificates must be valid for the first.

    Raises:
        ServerUnavailableError: If one of several names cannot be resolved.
    """
    if len(settings.urls) == 1:
        return settings.urls[0], []
    found = [_addresses(url, settings) for url in settings.urls]
    both = [version for version in (4, 6) if all(address[version] for address in found)]
    if not both:
        raise ServerUnavailableError(
            "the servers have no common version of IP; give IPv4 addresses, or IPv6 addresses, for all",
            endpoint=settings.endpoint,
        )
    targets = dict.fromkeys(target for address in found for target in address[both[0]])
    authority = [("grpc.default_authority", settings.urls[0])]
    if settings.secure:
        authority.append(("grpc.ssl_target_name_override", split_port(settings.urls[0])[0]))
    return f"ipv{both[0]}:{','.join(targets)}", authority


def _addresses(url: str, settings: Settings) -> dict[int, list[str]]:
    """The `address:port` of a `host:port`, by IP version."""
    host, port = split_port(url)
    try:
        infos = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise ServerUnavailableError(
            f"cannot resolve {host!r}: {error}. Check the URL.", endpoint=settings.endpoint
        ) from error
    found: dict[int, list[str]] = {4: [], 6: []}
    for *_, address in infos:
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
        found[ip.version].append(f"{ip}:{port}" if ip.version == 4 else f"[{ip}]:{port}")
    return found


class GrpcTransport:
    """The `Transport` over gRPC."""

    def __init__(self, settings: Settings) -> None:
        """Open the channel; it connects at the first call."""
        self._settings = settings
        self._client = triton.InferenceServerClient(**client_options(settings))

    def infer(self, model: Model, inputs: Tensors, outputs: Sequence[Tensor], request: Request) -> Answer:
        """See `Transport`. At the deadline the call is cancelled on the server too."""

        def send(**common: Any) -> Answer:
            tensors, wanted = build_request(triton, model, inputs, outputs)
            result = self._client.infer(
                model.name,
                tensors,
                outputs=wanted,
                compression_algorithm=self._settings.compression,
                **infer_options(request) | common,
            )
            return read_answer(result, outputs)

        return self._call(send, model, request)

    def server_live(self, request: Request) -> bool:
        """See `Transport`."""
        return self._call(lambda **common: bool(self._client.is_server_live(**common)), None, request)

    def server_ready(self, request: Request) -> bool:
        """See `Transport`."""
        return self._call(lambda **common: bool(self._client.is_server_ready(**common)), None, request)

    def model_ready(self, model: Model, request: Request) -> bool:
        """See `Transport`."""
        return self._call(
            lambda **common: bool(self._client.is_model_ready(model.name, **common)), model, request
        )

    def model_parameters(self, model: Model, request: Request) -> dict[str, str]:
        """See `Transport`."""
        return self._call(
            lambda **common: grpc_parameters(self._client.get_model_config(model.name, **common)),
            model,
            request,
        )

    def statistics(self, request: Request) -> list[dict[str, Any]]:
        """See `Transport`."""
        reply = self._call(
            lambda **common: self._client.get_inference_statistics(as_json=True, **common), None, request
        )
        return list(reply.get("model_stats", []))

    def close(self) -> None:
        """See `Transport`. Calls that still run in other threads are cancelled."""
        self._client.close()

    def _call(self, send: Callable[..., T], model: Model | None, request: Request) -> T:
        """Try, with what every call takes, until it works, is refused, or attempts or time are over."""
        retrying = tenacity.Retrying(**within(self._settings.attempts, request))
        answer: T = retrying(self._try, send, model, request)
        return answer

    def _try(self, send: Callable[..., T], model: Model | None, request: Request) -> T:
        try:
            return send(client_timeout=request.deadline.left_s, headers=dict(request.headers))
        except (InferenceServerException, ValueError) as error:  # ValueError: the channel is closed
            endpoint = self._settings.endpoint
            raise call_failure(error, model=model, request=request, endpoint=endpoint) from error
