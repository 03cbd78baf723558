"""HTTP error responses: status, headers, and a body in OpenAI's error format."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from tritonclip.errors import (
    DeadlineExceededError,
    InvalidInputError,
    ModelNotReadyError,
    ServerUnavailableError,
    TritonClipError,
    rejection_reason,
)

RETRY_AFTER_S = (1, 3)  # drawn at random, so that rejected callers do not all return at once
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_CODES = {
    400: "invalid_input",
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "rate_limit_exceeded",
    500: "inference_failed",
    503: "server_unavailable",
    504: "deadline_exceeded",
}


@dataclass(kw_only=True)
class Problem(Exception):  # noqa: N818 - a response for the caller, not a failure of the gateway
    """An error response, raised by whatever finds the problem.

    Attributes:
        status: HTTP status.
        message: The problem, its location, and how to fix it.
        code: Machine-readable code; None for the default code of the status.
        param: The request field at fault, such as `images[1]`.
        index: Index of the item at fault within that field; None if it is no single one.
        limit: The limit that was exceeded, in the unit that the message names; None if there is none.
        headers: Additional headers.
        extra: Additional members of the body, next to `error`.
        cause: Details for the log that the caller does not see.
    """

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    index: int | None = None
    limit: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    cause: str | None = None

    def __post_init__(self) -> None:
        """Add Retry-After to responses with status 503."""
        if self.status == 503:
            self.headers.setdefault("Retry-After", str(random.randint(*RETRY_AFTER_S)))

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's format (message, type, param, code), with index and limit."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "message": self.message,
            "type": _TYPES.get(self.status, kind),
            "param": self.param,
            "code": self.code or _CODES.get(self.status, "error"),
            "index": self.index,
            "limit": self.limit,
        }

    @property
    def body(self) -> dict[str, Any]:
        """The complete response body."""
        return {"error": self.error, **self.extra}


def problem_of(error: TritonClipError, field_of: dict[str, str] | None = None) -> Problem:
    """Convert an error of the client to an error response.

    Messages that describe the inside of the deployment go to the log, not to the caller.

    Args:
        error: The error that the client raised.
        field_of: Names of the request's fields for `image`, `label` and `text`, if they differ from the
            plural.
    """
    if isinstance(error, InvalidInputError):
        return Problem(
            status=400,
            message=error.message,
            param=_param(error, field_of or {}),
            index=error.index,
            limit=error.limit,
        )
    return replace(_failure(error), cause=str(error))


def _failure(error: TritonClipError) -> Problem:
    rejection = rejection_reason(error.message) if isinstance(error, ServerUnavailableError) else None
    if isinstance(error, DeadlineExceededError) or rejection == "deadline":
        return Problem(
            status=504, message="no answer within the deadline; try again later, or send less per request"
        )
    if isinstance(error, ModelNotReadyError):
        return Problem(status=503, code="model_not_ready", message="the model is not ready; try again later")
    if rejection == "overload":
        return Problem(status=503, code="overloaded", message="the server is overloaded; try again later")
    if isinstance(error, ServerUnavailableError):
        return Problem(status=503, message="the inference server cannot be reached; try again later")
    return Problem(status=500, message="inference failed; report it with the X-Request-ID of this response")


def _param(error: InvalidInputError, field_of: dict[str, str]) -> str | None:
    """Return the request's field that an error is about, with the index if it is about one item."""
    if error.field is None:
        return None
    name = field_of.get(error.field.removesuffix("s"), error.field)
    return name if error.index is None else f"{name}[{error.index}]"
