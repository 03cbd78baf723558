"""gRPC transport on one shared `tritonclient` client, which is safe for threads if nothing streams."""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import tenacity
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tritonclip._calls.codec import Call
from tritonclip._calls.request import Request
from tritonclip._calls.wire import Answer, Question
from tritonclip._process import forks
from tritonclip._process.proxies import proxy_of_grpc
from tritonclip._retry import FIRST_WAIT_S, MAX_WAIT_S, call_retry_policy
from tritonclip._settings import Settings, split_port
from tritonclip._transport.base import (
    JSON_TOPICS,
    call_failure,
    infer_arguments,
    read_answer,
    read_reply,
    send_question,
)
from tritonclip._transport.grpc_forks import GRPC_USE
from tritonclip.errors import (
    DeadlineExceededError,
    ServerUnavailableError,
    TritonClipError,
    rejection_reason,
)

M = TypeVar("M", bound=Call[Any] | Question)
T = TypeVar("T")

SERVICE_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})  # over all addresses
KEEPALIVE_TIMEOUT_MS = (
    20_000  # also the time after which Linux gives up on data that a lost host does not acknowledge
)


def client_options(settings: Settings) -> dict[str, Any]:
    """Return the arguments of `tritonclient`'s gRPC clients, with and without asyncio.

    Raises:
        ServerUnavailableError: One of several host names cannot be resolved.
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
    """Return the channel's options. They replace tritonclient's own, so its message sizes are repeated."""
    return [
        ("grpc.max_send_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
        ("grpc.max_receive_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
        ("grpc.keepalive_time_ms", int(settings.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.service_config", SERVICE_CONFIG),
        ("grpc.service_config_disable_resolution", 1),
        # After a failure, calls fail until gRPC reconnects: by default after 1 s, then up to 120 s.
        ("grpc.initial_reconnect_backoff_ms", int(FIRST_WAIT_S * 1000)),
        ("grpc.max_reconnect_backoff_ms", int(MAX_WAIT_S * 1000)),
        # A lost connection triggers name resolution, by default at most once in 30 s. That is too late if a
        # server is replaced by one with another address.
        ("grpc.dns_min_time_between_resolutions_ms", int(MAX_WAIT_S * 1000)),
    ]


def resolve(settings: Settings) -> tuple[str, list[tuple[str, Any]]]:
    """Return gRPC's target, and the channel options that it needs.

    gRPC resolves a single name itself: it balances the calls over all its addresses and follows changes. It
    takes no list of names, so several names are resolved here. Their certificates must be valid for the first
    name.

    Raises:
        ServerUnavailableError: One of several names cannot be resolved.
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
    """Resolve `host:port` to `address:port` values by IP version."""
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


def question_options(question: Question, request: Request) -> dict[str, Any]:
    """Return the keyword arguments of a question over gRPC."""
    options = {"client_timeout": request.deadline.left_s, "headers": dict(request.headers)}
    return options | {"as_json": True} if question.topic in JSON_TOPICS else options


def grpc_failure(
    error: Exception, message: Call[Any] | Question, request: Request, settings: Settings
) -> TritonClipError:
    """Return what `call_failure` returns, with the name of the proxy that may be in the way."""
    failure = call_failure(error, model=message.model, request=request, endpoint=settings.endpoint)
    may_be_the_proxy = isinstance(failure, (ServerUnavailableError, DeadlineExceededError))
    if may_be_the_proxy and rejection_reason(failure.message) is None and len(settings.urls) == 1:
        host, _ = split_port(settings.urls[0])
        if proxy := proxy_of_grpc(host):
            failure.message += f" gRPC connects through {proxy}; to connect directly, add {host} to no_proxy."
    return failure


class GrpcTransport:
    """The `Transport` over gRPC."""

    def __init__(self, settings: Settings) -> None:
        """Resolve the servers; the first call opens the channel."""
        self._settings = settings
        self._options = client_options(settings)
        self._client: Any = None
        self._lock = threading.Lock()  # guards the opening of the channel
        forks.renew_in_children(self)

    def renew(self) -> None:
        """Start without a channel in a forked process."""
        forks.leave_to_parent(self._client)
        self._client = None
        self._lock = threading.Lock()

    def infer(self, call: Call[Any], request: Request) -> Answer:
        """See `Transport`. A deadline cancels the call on the server too."""
        return self._send(self._infer, call, request)

    def ask(self, question: Question, request: Request) -> Any:
        """See `Transport`."""
        return self._send(self._ask, question, request)

    def close(self) -> None:
        """See `Transport`. Calls that other threads have in flight are cancelled."""
        if self._client is not None:
            self._client.close()

    def _infer(self, call: Call[Any], request: Request) -> Answer:
        result = self._client.infer(
            compression_algorithm=self._settings.compression,
            client_timeout=request.deadline.left_s,
            **infer_arguments(triton, call, request),
        )
        return read_answer(call, result)

    def _ask(self, question: Question, request: Request) -> Any:
        return read_reply(
            question, send_question(self._client, question, **question_options(question, request))
        )

    def _send(self, attempt: Callable[[M, Request], T], message: M, request: Request) -> T:
        """Attempt until success, an error that no retry can fix, the last attempt, or the deadline."""
        self._open()
        retrying = tenacity.Retrying(**call_retry_policy(self._settings.attempts, request))
        answer: T = retrying(self._attempt, attempt, message, request)
        return answer

    def _open(self) -> None:
        """Open the one channel of all threads, unless it is open."""
        if self._client is None:
            with self._lock:
                if self._client is None:
                    GRPC_USE.note_channel()
                    self._client = triton.InferenceServerClient(**self._options)

    def _attempt(self, attempt: Callable[[M, Request], T], message: M, request: Request) -> T:
        try:
            return attempt(message, request)
        except (InferenceServerException, ValueError) as error:  # ValueError: the channel is closed
            raise grpc_failure(error, message, request, self._settings) from error
