"""Makes the calls: the client package with its retries off, and the one place where a call is timed.

What comes back is sorted into outcomes, each a name of its own in locust's report, so that the times of
refusals do not pass for those of answers. No locust in here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tritonclip import Client, DeadlineExceededError, InvalidInputError, ServerUnavailableError
from tritonclip.errors import from_failure

from .answers import FirstAnswers, WrongAnswerError, check_refusal
from .settings import LoadSettings
from .workload import EMPTY_TEXT, NOT_AN_IMAGE, TRUNCATED, Fault, Job

RIGHT, WRONG, REFUSED, DEADLINE, ERROR = ("right", "wrong answer", "refused", "deadline", "error")
FAILURES = (WRONG, REFUSED, DEADLINE, ERROR)

NO_IMAGE = b"this is no image file, and the server should say so"
_REFUSED = re.compile(r".*overloaded:|.*[Ee]xceeds maximum queue size")
_TOO_LATE = re.compile(r".*deadline passed:|.*[Rr]equest timeout expired")


class RequestFailedError(Exception):
    """Why a request failed: the outcome, and one of few reasons, so that equal ones are counted as one."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(f"{outcome}: {reason}")


@dataclass(frozen=True)
class Outcome:
    """What became of one request.

    Attributes:
        job: What was asked.
        result: RIGHT, or one of FAILURES.
        latency_ms: From the start, or from when it should have started, to the answer.
        size_bytes: Of the numbers in the answer.
        reason: Of a failure: few different ones.
        detail: Of a failure: the whole text.
    """

    job: Job
    result: str
    latency_ms: float
    size_bytes: int = 0
    reason: str = ""
    detail: str = ""

    @property
    def name(self) -> str:
        """The name in the report: `classify`, `classify refused`, `bad request: truncated image` ..."""
        name = f"bad request: {self.job.fault.what}" if self.job.fault else self.job.kind
        return name if self.result == RIGHT else f"{name} - {self.result}"

    @property
    def failure(self) -> RequestFailedError | None:
        """What locust counts as a failure."""
        return None if self.result == RIGHT else RequestFailedError(self.result, self.reason)


def result_of(name: str) -> str:
    """The result that a name of the report tells of."""
    return next((result for result in FAILURES if name.endswith(f" - {result}")), RIGHT)


class Caller(Protocol):
    """Sends jobs; raises errors of the client package."""

    def send(self, job: Job) -> Any:
        """The answer to a job, in the form that `FirstAnswers.check` takes."""

    def close(self) -> None:
        """Close all connections."""


def perform(caller: Caller, job: Job, answers: FirstAnswers, due_s: float | None = None) -> Outcome:
    """Send a job, stop the time, and check the answer.

    Args:
        caller: Sends it.
        job: What to ask.
        answers: Those that were given before.
        due_s: `perf_counter` at which the request should have started; None: now.
    """
    start_s = time.perf_counter() if due_s is None else due_s
    answer, error = None, None
    try:
        answer = caller.send(job)
    except Exception as caught:  # whatever it is, it is this request's outcome
        error = caught
    latency_ms = (time.perf_counter() - start_s) * 1000
    try:
        if error is not None:
            _judge_error(job, error)
        elif job.fault:
            raise WrongAnswerError("bad request was answered", str(job.fault))
        else:
            answers.check(job, answer)
    except WrongAnswerError as wrong:
        return Outcome(job, WRONG, latency_ms, reason=wrong.reason, detail=str(wrong))
    except Exception as failure:
        return Outcome(job, _result_of(failure), latency_ms, reason=_reason(failure), detail=str(failure))
    return Outcome(job, RIGHT, latency_ms, size_bytes=answer_bytes(answer))


def _judge_error(job: Job, error: Exception) -> None:
    """Raises what is wrong with an error; nothing where it is the right refusal of a bad request."""
    if not isinstance(error, InvalidInputError):
        raise error
    if job.fault is None:
        raise WrongAnswerError("good request was called invalid", f"{job}: {error}") from error
    check_refusal(job.fault, error.message)


def _result_of(error: Exception) -> str:
    text = str(error)
    if isinstance(error, DeadlineExceededError) or _TOO_LATE.match(text):
        return DEADLINE
    if isinstance(error, ServerUnavailableError) and _REFUSED.match(text):
        return REFUSED
    return ERROR


def _reason(error: Exception) -> str:
    """The beginning of the text without its numbers; of what is not refused, with the class."""
    text = re.sub(r"[\d.]*\d", "#", str(getattr(error, "message", error)))
    if _result_of(error) in (REFUSED, DEADLINE):
        return re.split(r"[:.;]", text)[0]
    return f"{type(error).__name__}: {text[:120]}"


def answer_bytes(answer: Any) -> int:
    """Size of an answer's numbers."""
    if isinstance(answer, np.ndarray):
        return int(answer.nbytes)
    return sum(4 * len(ranking) for ranking in answer or ())


def image_file(pictures: Sequence[bytes], number: int, what: str | None) -> bytes:
    """A picture's file, spoilt in the way that is asked for."""
    if what == NOT_AN_IMAGE:
        return NO_IMAGE
    file = pictures[number]
    return file[: len(file) // 2] if what == TRUNCATED else file


def image_files(pictures: Sequence[bytes], job: Job) -> list[bytes]:
    """The files of a job, the bad one spoilt."""
    fault = job.fault or Fault("", -1)
    return [
        image_file(pictures, number, fault.what if index == fault.index else None)
        for index, number in enumerate(job.images)
    ]


class TritonCaller:
    """Calls Triton through the client package; by plain `tritonclient` what the package would not send.

    Args:
        protocol: `grpc` or `http`.
        settings: Addresses and deadline.
        pictures: The files that jobs name by their numbers.
    """

    def __init__(self, protocol: str, settings: LoadSettings, pictures: Sequence[bytes]) -> None:
        self._module = tritonclient.grpc if protocol == "grpc" else tritonclient.http
        self._url = settings.grpc_url if protocol == "grpc" else settings.http_url
        # One attempt: refusals are to be seen, not hidden behind a second try.
        self._client = Client(self._url, protocol=protocol, timeout_s=settings.deadline_s, attempts=1)
        self._deadline_s = settings.deadline_s
        self._pictures = pictures
        self._plain: Any = None
        self._sends: dict[str, Callable[[Job], Any]] = {
            "classify": lambda job: self._client.classify(image_files(pictures, job), list(job.texts)),
            "embed_images": lambda job: self._client.embed_images(image_files(pictures, job)),
            "embed_texts": lambda job: self._client.embed_texts(list(job.texts)),
        }

    def send(self, job: Job) -> Any:
        """See `Caller`."""
        if job.fault and job.fault.what == EMPTY_TEXT:
            return self._send_plain(job, job.fault.index)
        return self._sends[job.kind](job)

    def close(self) -> None:
        """See `Caller`."""
        self._client.close()
        if self._plain is not None:
            self._plain.close()

    def _send_plain(self, job: Job, empty: int) -> Any:
        """The client package itself refuses empty texts, so this goes past it."""
        texts = [b"" if index == empty else text.encode() for index, text in enumerate(job.texts)]
        tensors = {"text": texts}
        if job.kind == "classify":
            tensors = {"image": image_files(self._pictures, job), "labels": texts}
        inputs = []
        for name, values in tensors.items():
            inputs.append(self._module.InferInput(name, [1, len(values)], "BYTES"))
            inputs[-1].set_data_from_numpy(np.array([values], dtype=np.object_))
        model = "clip_zero_shot" if job.kind == "classify" else "clip_text_embedding"
        try:
            return self._plain_client().infer(model, inputs)
        except InferenceServerException as error:
            where, limit_s = self._client.endpoint, self._deadline_s
            raise from_failure(error, model=model, endpoint=where, timeout_s=limit_s) from error

    def _plain_client(self) -> Any:
        if self._plain is None:
            url = self._client.endpoint.partition("://")[2]
            self._plain = self._module.InferenceServerClient(url)
        return self._plain
