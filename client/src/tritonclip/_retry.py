"""Retry policies of calls and of bulk runs, for gRPC and HTTP alike.

Every call of this package is idempotent: inference changes nothing on the server. Waits grow exponentially
and are randomised, so that many clients do not retry at the same moment. gRPC's own retries are not used,
because they look at the status alone, and Triton rejects a wrong key with the status of an outage.
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


def call_retry_policy(attempts: int, request: Request) -> dict[str, Any]:
    """Return the arguments of a tenacity `Retrying` for one call; `attempts` includes the first."""
    return {
        "retry": tenacity.retry_if_exception(_is_unavailable),
        # At least 0.1, 0.2, 0.4 ... s, so that an outage shorter than their sum is always bridged.
        "wait": tenacity.wait_exponential(multiplier=FIRST_WAIT_S, max=MAX_WAIT_S)
        + tenacity.wait_random(0, FIRST_WAIT_S),
        "stop": tenacity.stop_after_attempt(attempts) | tenacity.stop_before_delay(request.deadline.left_s),
        "before_sleep": request.on_retry,
        "reraise": True,
    }


def run_retry_policy(
    patience_s: float, is_transient: Callable[[TritonClipError], bool], on_retry: Callable[[], None]
) -> dict[str, Any]:
    """Return the arguments of a tenacity `Retrying` for a request of a bulk run, to outlast a server restart.

    Args:
        patience_s: Maximum time to retry, in seconds.
        is_transient: Returns True if an error may disappear on a retry.
        on_retry: Called before each retry.
    """
    return {
        "retry": tenacity.retry_if_exception(
            lambda error: isinstance(error, TritonClipError) and is_transient(error)
        ),
        "wait": tenacity.wait_random_exponential(multiplier=FIRST_WAIT_S, max=BULK_MAX_WAIT_S),
        "stop": tenacity.stop_before_delay(patience_s),
        "before_sleep": lambda state: on_retry(),
        "reraise": True,
    }


def stopped_by(
    event: threading.Event, policy: dict[str, Any], sleep: Callable[[float], Any] | None = None
) -> dict[str, Any]:
    """Return the same policy, which gives up as soon as the event is set, also during a wait.

    Args:
        event: The event.
        policy: See `run_retry_policy`.
        sleep: Waits instead; its wait is ended by a cancellation rather than by the event.
    """
    return {
        **policy,
        "stop": policy["stop"] | tenacity.stop_when_event_set(event),
        "sleep": sleep or tenacity.sleep_using_event(event),
    }


def is_outage(error: TritonClipError) -> bool:
    """Return True if the server could not be reached or did not answer in time, which may be temporary."""
    return _is_unavailable(error) or isinstance(error, DeadlineExceededError)


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, ServerUnavailableError) and not isinstance(error, CertificateError)
