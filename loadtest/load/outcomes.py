"""Send one request, time it, and classify its outcome.

Each outcome has a separate name in locust's report, so that the latencies of rejections are not mixed with
those of answers. This module does not depend on locust.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from tritonclip import DeadlineExceededError, InvalidInputError
from tritonclip.errors import rejection_reason

from .answers import FirstAnswers, WrongAnswerError, check_error_text
from .callers import Caller
from .workload import Job

RIGHT, WRONG, REJECTED, DEADLINE, ERROR = ("right", "wrong answer", "rejected", "deadline", "error")
FAILURES = (WRONG, REJECTED, DEADLINE, ERROR)


class RequestFailedError(Exception):
    """Failure of a request as locust counts it: the result, and a reason from a small set."""

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(f"{result}: {reason}")


@dataclass(frozen=True)
class Outcome:
    """Outcome of one request.

    Attributes:
        job: The request.
        result: RIGHT, or one of FAILURES.
        latency_ms: Time to the answer, from the start of the request or from when it was due.
        size_bytes: Size of the numbers in the answer.
        reason: Reason of a failure, without details, for counting.
        detail: Full text of a failure.
    """

    job: Job
    result: str
    latency_ms: float
    size_bytes: int = 0
    reason: str = ""
    detail: str = ""

    @property
    def name(self) -> str:
        """Name in the report, such as `classify`, `classify - rejected`, `bad request: truncated image`."""
        name = f"bad request: {self.job.fault.what}" if self.job.fault else self.job.kind
        return name if self.result == RIGHT else f"{name} - {self.result}"

    @property
    def failure(self) -> RequestFailedError | None:
        """Exception that locust counts as a failure, or None."""
        return None if self.result == RIGHT else RequestFailedError(self.result, self.reason)


def result_of(name: str) -> str:
    """Return the result that an outcome's name in the report ends with."""
    return next((result for result in FAILURES if name.endswith(f" - {result}")), RIGHT)


def perform(caller: Caller, job: Job, answers: FirstAnswers, due_s: float | None = None) -> Outcome:
    """Send a job, measure its latency, and check the answer.

    Args:
        caller: Sends the job.
        job: The request.
        answers: First answers to compare with.
        due_s: `perf_counter` value at which the request was due. None means now.
    """
    start_s = time.perf_counter() if due_s is None else due_s
    answer, error = None, None
    try:
        answer = caller.send(job)
    except Exception as caught:  # every exception is an outcome of this request
        error = caught
    latency_ms = (time.perf_counter() - start_s) * 1000
    try:
        if error is not None:
            _check_error(job, error)
        elif job.fault:
            raise WrongAnswerError("bad request was answered", str(job.fault))
        else:
            answers.check(job, answer)
    except WrongAnswerError as wrong:
        return Outcome(job, WRONG, latency_ms, reason=wrong.reason, detail=str(wrong))
    except Exception as failure:
        result = _failure_result(failure)
        return Outcome(job, result, latency_ms, reason=_reason(result, failure), detail=str(failure))
    return Outcome(job, RIGHT, latency_ms, size_bytes=answer_bytes(answer))


def _check_error(job: Job, error: Exception) -> None:
    """Raise the error, or a WrongAnswerError, unless it is the right error for a bad request."""
    if not isinstance(error, InvalidInputError):
        raise error
    if job.fault is None:
        raise WrongAnswerError("valid request was called invalid", f"{job}: {error}") from error
    check_error_text(job.fault, error.message)


def _failure_result(error: Exception) -> str:
    if rejection_reason(_message(error)):
        return REJECTED
    return DEADLINE if isinstance(error, DeadlineExceededError) else ERROR


def _reason(result: str, error: Exception) -> str:
    """Return the start of the error text without numbers; for unexpected errors also the class."""
    text = re.sub(r"[\d.]*\d", "#", _message(error))
    if result in (REJECTED, DEADLINE):
        return re.split(r"[:.;]", text)[0]
    return f"{type(error).__name__}: {text[:120]}"


def _message(error: Exception) -> str:
    return str(getattr(error, "message", error))


def answer_bytes(answer: Any) -> int:
    """Return the size of the numbers in an answer."""
    if isinstance(answer, np.ndarray):
        return int(answer.nbytes)
    return sum(4 * len(ranking) for ranking in answer or ())
