"""The errors of the package, and the one place where failures of a call become them.

    TritonClipError
    ├── InvalidInputError       (also ValueError)    fix the input
    ├── ServerUnavailableError                       retry, or check the address
    │   └── CertificateError                         fix ca_file, cert_file or the URL
    ├── DeadlineExceededError   (also TimeoutError)  allow more time, or send less
    ├── ModelNotReadyError                           fix the deployment
    ├── AccessDeniedError                            fix the API key or the headers
    ├── InferenceError                               report it
    └── MissingExtraError       (also ImportError)   install what is named

The tree is split by what the caller does next, not by protocol: gRPC and HTTP failures of one kind
become one class. Every error carries `message`, `model` and `endpoint`.
"""

from __future__ import annotations

import http.client
import re
import ssl

MAX_TEXT_CHARS = 1000
_PREFIX = re.compile(r"^(?:\[request id: [^\]]*\] |in ensemble '[^']*', )+")
_NOT_READY = re.compile(r"Request for unknown model|.*\b(?:is not ready|has no available versions)\b")
_RESTRICTED = re.compile(r".*\b(?:API|protocol) is restricted\b")
_ONE_INPUT = re.compile(
    r"(image|label|text) \d+\b[^;]*$"
)  # the texts with a semicolon name a cure of their own
# The texts of gRPC, and of this module, for a connection that was not made or did not last.
_NO_CONNECTION = re.compile(r"all backends|handshake|\bconnect(?:ion)?\b|socket closed", re.IGNORECASE)
# Of gRPC's transport: what a proxy does where the server behind it died midway. One that fails by itself says
# so in a status, and resets nothing.
_BROKEN_OFF = re.compile(r"stream removed|.*\bRST_STREAM\b", re.IGNORECASE)
_BROKEN_OFF_STATUSES = ("INTERNAL", "UNKNOWN", "CANCELLED")
_TOO_LARGE = re.compile(r".*message larger than max")
_REFUSED = re.compile(
    r"(?:overloaded|deadline (?:passed|cannot be met)|draining): "
)  # by the model `admission`
# Texts of Triton itself: the codec always sends the same tensors, so it is the deployment that differs.
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
        message: What was wrong, where, and what to do.
        model: The model that was called; None if it did not come to a call.
        endpoint: The server's address, as `grpc://host:port`; None if it did not come to a call.
    """

    def __init__(self, message: str, *, model: str | None = None, endpoint: str | None = None) -> None:
        """Keep the parts; `str()` joins them."""
        super().__init__(message)
        self.message = message
        self.model = model
        self.endpoint = endpoint

    def __str__(self) -> str:
        """The message, then the model and the server where they are known."""
        where = [f"model {self.model}"] if self.model else []
        where += [f"server {self.endpoint}"] if self.endpoint else []
        return f"{self.message} ({', '.join(where)})" if where else self.message


class InvalidInputError(TritonClipError, ValueError):
    """An argument, image or label is wrong, found here or by the server. Fix the input; do not retry."""


class ServerUnavailableError(TritonClipError):
    """The server cannot be reached, is stopping, or takes no more work now. Retry, or check the URL."""


class CertificateError(ServerUnavailableError):
    """The server's certificate, or this client's, is not accepted. Fix the files or the URL; do not retry."""


class DeadlineExceededError(TritonClipError, TimeoutError):
    """No answer within `timeout_s`. Allow more time, send less at once, or look at the server's load."""


class ModelNotReadyError(TritonClipError):
    """The server has no such model ready, or another version of it. Fix the deployment; do not retry."""


class AccessDeniedError(TritonClipError):
    """The server refuses this client's key or headers. Fix `api_key` or `headers`; do not retry."""


class InferenceError(TritonClipError):
    """The server failed, or its answer makes no sense. Report it together with the server's log."""


class MissingExtraError(TritonClipError, ImportError):
    """An optional dependency is not installed. Run the pip line in the message."""


class TruncatedTextWarning(UserWarning):
    """A label or text has more tokens than CLIP reads: its end was cut off. Shorten it."""


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
    "Try again shortly; if that does not help, check the URL and the port, that ca_file holds the authority "
    "of the server's certificate and the certificate this host's name, and whether the server asks for "
    "cert_file and key_file."
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
    """Turn what a call raised into the error of this package that says what to do next.

    Args:
        error: A `tritonclient` InferenceServerException of either protocol, a TimeoutError, an OSError
            of the socket, or an `http.client.HTTPException` (an answer that is not HTTP).
        model: The model that was called; None for calls to the server itself.
        endpoint: The server's address, as `grpc://host:port`.
        timeout_s: The deadline of the call, in seconds; named in DeadlineExceededError.

    Returns:
        The error to raise `from` the given one.
    """
    status, text = _status_and_text(error)
    kind = _kind(status, text)
    secure = endpoint.startswith(("grpcs://", "https://"))
    if secure and kind is ServerUnavailableError and _NO_CONNECTION.search(text):
        text = text.removeprefix(f"{_ENCRYPTED}: ").rstrip(".")
        kind = CertificateError if "certificate" in text.lower() else kind
        return kind(f"{_ENCRYPTED}: {text}. {_TLS_ADVICE}", model=model, endpoint=endpoint)
    return kind(_message(kind, status, text, timeout_s), model=model, endpoint=endpoint)


def deadline_message(timeout_s: float) -> str:
    """The text for a deadline of so many seconds that has passed."""
    return f"no answer within {timeout_s:g} s. Raise timeout_s, or send fewer images and labels at once."


def _status_and_text(error: BaseException) -> tuple[str, str]:
    """The status as the bare gRPC name or the HTTP code, and the text without Triton's prefixes."""
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
    text = _PREFIX.sub("", str(message() or "").strip())
    if len(text) > MAX_TEXT_CHARS:  # a traceback, a proxy's page; the cause holds all of it
        text = text[:MAX_TEXT_CHARS] + " [cut]"
    return str(status() or "").removeprefix("StatusCode."), text or "no message"


def _kind(status: str, text: str) -> type[TritonClipError]:
    if _NOT_READY.match(text) or _OTHER_TENSORS.match(text):
        return ModelNotReadyError
    if _RESTRICTED.match(text):  # arrives as UNAVAILABLE over gRPC, but a retry cannot help
        return AccessDeniedError
    if status == "RESOURCE_EXHAUSTED" and _TOO_LARGE.match(text):
        return InvalidInputError
    if status in _BROKEN_OFF_STATUSES and _BROKEN_OFF.match(text):
        return ServerUnavailableError
    return _BY_STATUS.get(status, InferenceError)


def _message(kind: type[TritonClipError], status: str, text: str, timeout_s: float) -> str:
    if kind is DeadlineExceededError:
        return deadline_message(timeout_s)
    if kind is InvalidInputError and (status == "413" or _TOO_LARGE.match(text)):
        return f"the request is too large: {text}. Send fewer or smaller images at once."
    if kind is ModelNotReadyError and _OTHER_TENSORS.match(text):
        return f"{text}. The server holds another version of the model repository than this client needs."
    bad = _ONE_INPUT.match(text) if kind is InvalidInputError else None
    advice = f"Correct this {bad[1]}, or leave it out." if bad else _ADVICE.get(kind)
    if kind is ServerUnavailableError and _REFUSED.match(text):
        advice = "Try again later."
    return f"{text.rstrip('.')}. {advice}" if advice else text
