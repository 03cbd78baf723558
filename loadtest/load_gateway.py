"""Calls the REST gateway: POST /v1/classify, a form with files `images` and fields `labels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import urllib3

from load_calls import image_files
from load_settings import LoadSettings
from load_workload import EMPTY_TEXT, Job
from tritonclip import DeadlineExceededError, InferenceError, InvalidInputError, ServerUnavailableError

PATH = "/v1/classify"


class GatewayCaller:
    """Calls the gateway, which classifies only.

    Args:
        settings: Its address and the deadline.
        pictures: The files that jobs name by their numbers.
    """

    def __init__(self, settings: LoadSettings, pictures: Sequence[bytes]) -> None:
        self._url = f"{(settings.gateway_url or '').rstrip('/')}{PATH}"
        self._pictures = pictures
        self._pool = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(total=settings.deadline_s))

    def send(self, job: Job) -> Any:
        """See `Caller`; raises the client package's errors for the gateway's statuses."""
        files = image_files(self._pictures, job)
        form = [("images", (f"{index}", file)) for index, file in enumerate(files)]
        empty = job.fault.index if job.fault and job.fault.what == EMPTY_TEXT else -1
        labels = [("labels", "" if index == empty else text) for index, text in enumerate(job.texts)]
        try:
            reply = self._pool.request("POST", self._url, fields=[*form, *labels])
        except urllib3.exceptions.TimeoutError as error:
            raise DeadlineExceededError(f"no answer from {self._url}") from error
        except urllib3.exceptions.HTTPError as error:
            raise ServerUnavailableError(f"cannot call {self._url}: {error}") from error
        if reply.status == 200:
            return reply.json()["results"]
        raise _error_of(reply.status, _text(reply))

    def close(self) -> None:
        """See `Caller`."""
        self._pool.clear()


def _error_of(status: int, text: str) -> Exception:
    if status in (400, 413, 422):
        return InvalidInputError(text)
    if status == 504:
        return DeadlineExceededError(text)
    if status in (429, 502, 503):
        return ServerUnavailableError(text if status != 429 else f"overloaded: {text}")
    return InferenceError(f"HTTP {status}: {text}")


def _text(reply: urllib3.BaseHTTPResponse) -> str:
    """The message of a JSON error, or the beginning of the body."""
    try:
        return str(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        return reply.data[:300].decode("utf-8", "replace")
