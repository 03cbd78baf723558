"""The options of one call apart from its tensors: deadline, request ID, priority, headers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from tritonclip._calls.timings import Timer
from tritonclip._settings import Settings, check_headers, check_seconds
from tritonclip.errors import InvalidInputError

MAX_PRIORITY = 2**32 - 1


class RequestOptions(TypedDict, total=False):
    """The keyword arguments of every call.

    Attributes:
        timeout_s: Deadline of the call in seconds; None: the client's. It covers everything that the call
            does. The server receives the remaining time.
        request_id: Identifies the request in the server's log.
        priority: Triton's request priority: 1 is the highest level, 0 the model's default. It matters only if
            a model's configuration has priority levels.
        headers: Sent with this call's requests, in addition to the client's.
    """

    timeout_s: float | None
    request_id: str
    priority: int
    headers: Mapping[str, str] | None


class Deadline:
    """A deadline that is `limit_s` seconds from now."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._end = time.monotonic() + limit_s

    @property
    def left_s(self) -> float:
        """Seconds that are left, never quite 0."""
        return max(self._end - time.monotonic(), 1e-6)

    @property
    def left_ms(self) -> int:
        """Whole milliseconds that are left, at least 1."""
        return max(int((self._end - time.monotonic()) * 1000), 1)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The checked options of one call, with its deadline running.

    Attributes:
        on_retry: Called before each retry with tenacity's state of the call.
        timer: Measures where the time of the call goes; None if the client does not.
    """

    deadline: Deadline
    request_id: str = ""
    priority: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    on_retry: Callable[[Any], None] | None = None
    timer: Timer | None = None


def start_request(
    settings: Settings,
    *,
    timeout_s: float | None = None,
    request_id: str = "",
    priority: int = 0,
    headers: Mapping[str, str] | None = None,
) -> Request:
    """Check the options of a call, see `RequestOptions`, and start its deadline.

    Raises:
        InvalidInputError: An option is malformed.
    """
    timer = Timer() if settings.timings else None
    limit_s = settings.timeout_s if timeout_s is None else check_seconds("timeout_s", timeout_s)
    if not isinstance(request_id, str):
        raise InvalidInputError(f"request_id: expected a string, got {type(request_id).__name__}")
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= MAX_PRIORITY:
        raise InvalidInputError(
            f"priority: expected a whole number from 0 to {MAX_PRIORITY}, got {priority!r:.100}"
        )
    return Request(
        deadline=Deadline(limit_s),
        request_id=request_id,
        priority=priority,
        headers={**settings.headers, **check_headers(headers)} if headers else settings.headers,
        timer=timer,
    )
