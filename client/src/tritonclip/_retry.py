"""What is tried again, how often and how soon: one statement for gRPC, HTTP and bulk runs.

Every call of this package may be repeated: inference changes nothing on the server. Waits grow exponentially
and are partly drawn at random, so that many clients do not come back at the same moment. gRPC's own retries
are not used: they go by the status alone, and Triton refuses a wrong key with that of an outage.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import tenacity

from tritonclip._calls.request import Request
from tritonclip.errors import CertificateError, DeadlineExceededError, ServerUnavailableError, TritonClipError

FIRST_WAIT_S = 0.1
MAX_WAIT_S = 2.0
BULK_MAX_WAIT_S = 5.0


def within(attempts: int, request: Request) -> dict[str, Any]:
    """The settings of a tenacity `Retrying` for one call; `attempts` counts the first try."""
    return {
        "retry": tenacity.retry_if_exception(_is_unavailable),
        # At least 0.1, 0.2, 0.4 ... s, so that a gap of as much as their sum is bridged for certain.
        "wait": tenacity.wait_exponential(multiplier=FIRST_WAIT_S, max=MAX_WAIT_S)
        + tenacity.wait_random(0, FIRST_WAIT_S),
        "stop": tenacity.stop_after_attempt(attempts) | tenacity.stop_before_delay(request.deadline.left_s),
        "before_sleep": request.on_retry,
        "reraise": True,
    }


def patiently(
    patience_s: float, is_passing: Callable[[TritonClipError], bool], on_retry: Callable[[], None]
) -> dict[str, Any]:
    """The settings of a tenacity `Retrying` for a request of a bulk run, which outlives a server's restart.

    Args:
        patience_s: How long to go on trying, in seconds.
        is_passing: Whether an error may pass by itself.
        on_retry: Called before each further try.
    """
    return {
        "retry": tenacity.retry_if_exception(
            lambda error: isinstance(error, TritonClipError) and is_passing(error)
        ),
        "wait": tenacity.wait_random_exponential(multiplier=FIRST_WAIT_S, max=BULK_MAX_WAIT_S),
        "stop": tenacity.stop_before_delay(patience_s),
        "before_sleep": lambda state: on_retry(),
        "reraise": True,
    }


def until(event: threading.Event, settings: dict[str, Any]) -> dict[str, Any]:
    """The same settings, given up as soon as the event is set, waits included."""
    return {
        **settings,
        "stop": settings["stop"] | tenacity.stop_when_event_set(event),
        "sleep": tenacity.sleep_using_event(event),
    }


def is_outage(error: TritonClipError) -> bool:
    """Whether the server could not be reached or did not answer in time, which may pass."""
    return _is_unavailable(error) or isinstance(error, DeadlineExceededError)


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, ServerUnavailableError) and not isinstance(error, CertificateError)
