"""The errors of the package, and the mapping of a call's failures to them.

    TritonClipError
    ├── InvalidInputError       (also ValueError)    fix the input
    ├── ServerUnavailableError                       retry, or check the address
    │   └── CertificateError                         fix ca_file, cert_file or the URL
    ├── DeadlineExceededError   (also TimeoutError)  allow more time, or send less
    ├── ModelNotReadyError                           fix the deployment
    ├── AccessDeniedError                            fix the API key or the headers
    ├── InferenceError                               report it
    └── MissingExtraError       (also ImportError)   install what is named

The tree follows what the caller does next, not the protocol: the same failure over gRPC and HTTP is the
same class. Every error has `message`, `model`, `endpoint`, `index`, `field` and `limit`. The last three are
read from the message, because the server sends nothing else.
"""

from __future__ import annotations

import http.client
import re
import ssl
from typing import Literal

from tritonclip._messages.wrong_port import wrong_port_message

Rejection = Literal["overload", "deadline", "draining"]
"""Reasons for which the server rejects a request without working on it."""

MAX_TEXT_CHARS = 1000
_PREFIX = re.compile(r"^(?:\[request id: [^\]]*\] |in ensemble '[^']*', )+")
_NOT_READY = re.compile(r"Request for unknown model|.*\b(?:is not ready|has no available versions)\b")
_RESTRICTED = re.compile(r".*\b(?:API|protocol) is restricted\b")
# Texts about one input that name no cure; texts with a semicolon do.
_ONE_INPUT = re.compile(r"(image|label|text) \d+\b[^;]*$")
FIELDS = (
    *("images", "labels", "texts", "hypothesis_template", "templates", "top_k", "threshold", "vector"),
    *(
        "url",
        "protocol",
        "timeout_s",
        "api_key",
        "headers",
        "ca_file",
        "cert_file",
        "key_file",
        "compression",
    ),
    *(
        "attempts",
        "keepalive_s",
        "preprocess",
        "fetch_timeout_s",
        "fetch_max_bytes",
        "timings",
        "request_id",
        "priority",
    ),
    *("batch_size", "concurrency", "patience_s", "wait_for_server", "on_progress", "on_error"),
)
"""The arguments that messages begin with, if they are about one."""
_ITEM = re.compile(r"(image|label|text) (\d+)\b")
_FIELD = re.compile(
    rf"(?:too many |no |request too large: \d+ bytes of )?({'|'.join(FIELDS)}|TRITONCLIP_[A-Z_]+)\b"
)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_LIMIT = re.compile(
    r"(?:\blimit (?:is|of)|\b(?:more|larger) than|\bat most|\bover|\bno answer within"
    r"|larger than max \(\d+ vs\.|\bexpected (?:[^,;]* from )?[\d.]+ to) (\d+(?:\.\d+)?)"
)
# Texts of gRPC and of this module for a connection that failed or broke.
_NO_CONNECTION = re.compile(r"all backends|handshake|\bconnect(?:ion)?\b|socket closed", re.IGNORECASE)
# Texts of gRPC's transport if a proxy resets the stream because the server behind it died during the call. A
# server that reports a failure itself sends a status and resets nothing.
_STREAM_RESET = re.compile(r"stream removed|.*\bRST_STREAM\b", re.IGNORECASE)
_STREAM_RESET_STATUSES = ("INTERNAL", "UNKNOWN", "CANCELLED")
_TOO_LARGE = re.compile(r".*message larger than max")
# Texts of the server's models that reject a request without working on it, and of Triton's own queues.
_REJECTIONS: tuple[tuple[Rejection, re.Pattern[str]], ...] = (
    ("overload", re.compile(r"overloaded: |Exceeds maximum queue size", re.IGNORECASE)),
    ("deadline", re.compile(r"deadline (?:passed|cannot be met): |Request timeout expired", re.IGNORECASE)),
    ("draining", re.compile(r"draining: ")),
)
# Triton's texts about tensors. The codec always sends the same tensors, so the deployment must differ.
_OTHER_TENSORS = re.compile(
    r"unexpected inference (?:input|output)"
    r"|expected \d+ inputs"
    r"|input '.*' batch size does not match"
    r"|inference input '.*' data-type is"
    r"|unexpected shape for input"
)


class TritonClipError(Exception):
    """Base of all errors of this package.

    Attributes:
        message: The problem, the input it concerns, and the cure.
        model: The model that was called; None if no call was made.
        endpoint: The server's address, such as `grpc://host:port`; None if no call was made.
    """

    def __init__(self, message: str, *, model: str | None = None, endpoint: str | None = None) -> None:
        """Store the parts, which `str()` joins."""
        super().__init__(message)
        self.message = message
        self.model = model
        self.endpoint = endpoint

    @property
    def index(self) -> int | None:
        """Index of the image, label or text at fault in the caller's list; None if it is no single one."""
        found = _ITEM.match(self.message)
        return int(found[2]) if found else None

    @property
    def field(self) -> str | None:
        """The argument at fault, such as `images`, `labels` or `top_k`, or a variable; None if unknown."""
        if found := _ITEM.match(self.message):
            return f"{found[1]}s"
        found = _FIELD.match(self.message)
        return found[1] if found else None

    @property
    def limit(self) -> float | None:
        """The limit that was exceeded, in the unit that the message names; None if there is none."""
        found = _LIMIT.search(_QUOTED.sub("", self.message))
        if found is None:
            return None
        return float(found[1]) if "." in found[1] else int(found[1])

    def __str__(self) -> str:
        """Return the message, followed by the model and the server if they are known."""
        context = [f"model {self.model}"] if self.model else []
        context += [f"server {self.endpoint}"] if self.endpoint else []
        return f"{self.message} ({', '.join(context)})" if context else self.message


class InvalidInputError(TritonClipError, ValueError):
    """The client or the server rejects an argument, image or label. Fix the input; do not retry."""


class ServerUnavailableError(TritonClipError):
    """The server cannot be reached, is shutting down, or is overloaded. Retry, or check the URL."""


class CertificateError(ServerUnavailableError):
    """A certificate is rejected, or the port does not use TLS. Fix the files or the URL; do not retry."""


class DeadlineExceededError(TritonClipError, TimeoutError):
    """The server did not answer within `timeout_s`. Allow more time, send less, or check its load."""


class ModelNotReadyError(TritonClipError):
    """The model is missing, not ready, or of another version. Fix the deployment; do not retry."""


class AccessDeniedError(TritonClipError):
    """The server rejects this client's key or headers. Fix `api_key` or `headers`; do not retry."""


class InferenceError(TritonClipError):
    """The server failed, or its answer is malformed. Report it together with the server's log."""


class MissingExtraError(TritonClipError, ImportError):
    """An optional dependency is not installed. Run the pip line in the message for an index or a checkout."""


class LabelWarning(UserWarning):
    """No labels were given, or only one, so the scores say little. Give at least two labels."""


class TruncatedTextWarning(UserWarning):
    """A label or text has more tokens than the served model reads and was truncated. Shorten it."""


_BY_STATUS: dict[str, type[TritonClipError]] = {
    "INVALID_ARGUMENT": InvalidInputError,
    "400": InvalidInputError,
    "413": InvalidInputError,
    "415": InvalidInputError,
    "UNAUTHENTICATED": AccessDeniedError,
    "PERMISSION_DENIED": AccessDeniedError,
    "401": AccessDeniedError,
    "403": AccessDeniedError,
    "NOT_FOUND": ModelNotReadyError,
    "404": ModelNotReadyError,
    "UNAVAILABLE": ServerUnavailableError,
    "RESOURCE_EXHAUSTED": ServerUnavailableError,
    "429": ServerUnavailableError,
    "502": ServerUnavailableError,
    "503": ServerUnavailableError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "504": DeadlineExceededError,
}

_ENCRYPTED = "the encrypted connection failed"
_TLS_ADVICE = (
    "Try again shortly; if that does not help, check the URL and the port, that ca_file contains the "
    "authority of the server's certificate, that the certificate names this host, and whether the server "
    "requires cert_file and key_file."
)
_ADVICE: dict[type[TritonClipError], str] = {
    ServerUnavailableError: "Try again shortly; if that does not help, check the URL and the port.",
    ModelNotReadyError: "Check that the server has loaded tritonclip's model repository.",
    AccessDeniedError: "Check api_key and headers.",
    InferenceError: "See the server's log, and report it.",
}


def from_failure(
    error: BaseException, *, model: str | None, endpoint: str, timeout_s: float
) -> TritonClipError:
    """Map an exception of a call to the package's error that says what to do next.

    Args:
        error: A `tritonclient` InferenceServerException of either protocol, a TimeoutError, an OSError
            of the socket, or an `http.client.HTTPException` (a response that is not HTTP).
        model: The model that was called; None for calls about the server itself.
        endpoint: The server's address, such as `grpc://host:port`.
        timeout_s: The deadline of the call in seconds, for the text of DeadlineExceededError.

    Returns:
        The error to raise `from` the given one.
    """
    status, text = _status_and_text(error)
    kind = _kind(status, text)
    secure = endpoint.startswith(("grpcs://", "https://"))
    if message := wrong_port_message(endpoint, status, text):
        kind = CertificateError if secure else kind
        return kind(f"{message}.", model=model, endpoint=endpoint)
    if secure and kind is ServerUnavailableError and _NO_CONNECTION.search(text):
        text = text.removeprefix(f"{_ENCRYPTED}: ").rstrip(".")
        kind = CertificateError if "certificate" in text.lower() else kind
        return kind(f"{_ENCRYPTED}: {text}. {_TLS_ADVICE}", model=model, endpoint=endpoint)
    return kind(_message(kind, status, text, timeout_s), model=model, endpoint=endpoint)


def install_command(extra: str) -> str:
    """Return the commands that install an extra of this package, from a package index and from a checkout."""
    return f'pip install "tritonclip[{extra}]" (in a checkout: pip install "./client[{extra}]")'


def deadline_message(timeout_s: float) -> str:
    """Return the error text for a missed deadline of `timeout_s` seconds."""
    return f"no answer within {timeout_s:g} s. Raise timeout_s, or send fewer images and labels at once."


def rejection_reason(message: str) -> Rejection | None:
    """Return why the server rejected a request without working on it, from an error's message.

    Args:
        message: The `message` of an error of this package, or the server's own text.

    Returns:
        `overload`: the request would have waited longer than the queue budget. `deadline`: it would have been
        late for its caller. `draining`: the server is shutting down. None: it is no such rejection.
    """
    text = _PREFIX.sub("", message)
    return next((reason for reason, pattern in _REJECTIONS if pattern.match(text)), None)


def _status_and_text(error: BaseException) -> tuple[str, str]:
    """Return the gRPC status name or HTTP code, and the text without Triton's prefixes."""
    if isinstance(error, TimeoutError):
        return "DEADLINE_EXCEEDED", ""
    if isinstance(error, http.client.HTTPException):
        return "UNAVAILABLE", f"the connection broke, or this is not an HTTP port: {error}"
    if isinstance(error, ssl.SSLError):
        return "UNAVAILABLE", f"{_ENCRYPTED}: {error}"
    if isinstance(error, (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)):
        return "UNAVAILABLE", f"the connection broke: {error}"
    if isinstance(error, OSError):
        return "UNAVAILABLE", f"cannot connect: {str(error) or type(error).__name__}"
    status, message = getattr(error, "status", None), getattr(error, "message", None)
    if not (callable(status) and callable(message)):
        return "", f"{type(error).__name__}: {error}"
    found = message() or ""
    if isinstance(found, dict):  # an HTTP server that is not Triton, such as the gateway before its routes
        found = found.get("message", found)
    text = _PREFIX.sub("", str(found).strip())
    if len(text) > MAX_TEXT_CHARS:  # a traceback or a proxy's page; the cause has all of it
        text = text[:MAX_TEXT_CHARS] + " [cut]"
    return str(status() or "").removeprefix("StatusCode."), text or "no message"


def _kind(status: str, text: str) -> type[TritonClipError]:
    if _NOT_READY.match(text) or _OTHER_TENSORS.match(text):
        return ModelNotReadyError
    if _RESTRICTED.match(text):  # UNAVAILABLE over gRPC, but a retry cannot help
        return AccessDeniedError
    if status == "RESOURCE_EXHAUSTED" and _TOO_LARGE.match(text):
        return InvalidInputError
    if status in _STREAM_RESET_STATUSES and _STREAM_RESET.match(text):
        return ServerUnavailableError
    return _BY_STATUS.get(status, InferenceError)


def _message(kind: type[TritonClipError], status: str, text: str, timeout_s: float) -> str:
    if kind is DeadlineExceededError:
        return deadline_message(timeout_s)
    if kind is InvalidInputError and (status == "413" or _TOO_LARGE.match(text)):
        return f"the request is too large: {text}. Send fewer or smaller images at once."
    if kind is ModelNotReadyError and _OTHER_TENSORS.match(text):
        return f"{text}. The server has another version of the model repository than this client needs."
    bad = _ONE_INPUT.match(text) if kind is InvalidInputError else None
    advice = f"Correct this {bad[1]}, or leave it out." if bad else _ADVICE.get(kind)
    if kind is ServerUnavailableError and rejection_reason(text):
        advice = "Try again later."
    return f"{text.rstrip('.')}. {advice}" if advice else text
