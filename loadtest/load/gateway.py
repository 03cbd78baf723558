"""Calls the REST gateway: classification as a form, embeddings as OpenAI's clients ask for them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import urllib3

from tritonclip import DeadlineExceededError, InferenceError, InvalidInputError, ServerUnavailableError

from .calls import image_files
from .settings import LoadSettings
from .workload import EMPTY_TEXT, Job


class GatewayCaller:
    """Calls the gateway.

    Args:
        settings: Its address and the deadline.
        pictures: The files that jobs name by their numbers.
    """

    def __init__(self, settings: LoadSettings, pictures: Sequence[bytes]) -> None:
        self._url = (settings.gateway_url or "").rstrip("/")
        self._pictures = pictures
        self._pool = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(total=settings.deadline_s))

    def send(self, job: Job) -> Any:
        """See `Caller`; raises the client package's errors for the gateway's statuses."""
        files = image_files(self._pictures, job)
        empty = job.fault.index if job.fault and job.fault.what == EMPTY_TEXT else -1
        texts = ["" if index == empty else text for index, text in enumerate(job.texts)]
        if job.kind == "classify":
            form = [("images", (f"{index}", file)) for index, file in enumerate(files)]
            reply = self._post("/v1/classify", fields=[*form, *(("labels", text) for text in texts)])
            return _rankings(reply["results"])
        given = [f"data:;base64,{base64.b64encode(file).decode()}" for file in files] or texts
        modality = "image" if files else "text"
        body = {"input": given, "modality": modality, "encoding_format": "base64"}
        return _vectors(self._post("/v1/embeddings", json=body)["data"])

    def close(self) -> None:
        """See `Caller`."""
        self._pool.clear()

    def _post(self, path: str, **body: Any) -> dict[str, Any]:
        try:
            reply = self._pool.request("POST", self._url + path, **body)
        except urllib3.exceptions.TimeoutError as error:
            raise DeadlineExceededError(f"no answer from {self._url}") from error
        except urllib3.exceptions.HTTPError as error:
            raise ServerUnavailableError(f"cannot call {self._url}: {error}") from error
        if reply.status != 200:
            raise _error_of(reply)
        answer: dict[str, Any] = reply.json()
        return answer


def _vectors(data: list[dict[str, Any]]) -> np.ndarray:
    """OpenAI's list of embeddings to float32 [n, d]."""
    return np.array([np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in data])


def _rankings(results: list[dict[str, Any]]) -> list[Any]:
    """Each image's predictions; an image that was refused alone refuses the job, as over gRPC."""
    for result in results:
        if "error" in result:
            raise InvalidInputError(result["error"]["message"])
    return [result["predictions"] for result in results]


def _error_of(reply: urllib3.BaseHTTPResponse) -> Exception:
    """What the client package would have raised."""
    try:
        error = reply.json()["error"]
        text, code = error["message"], error["code"]
    except (ValueError, KeyError, TypeError):  # not the gateway's own answer
        text, code = reply.data[:300].decode("utf-8", "replace"), ""
    if reply.status in (400, 413, 415):
        return InvalidInputError(text)
    if reply.status == 504:
        return DeadlineExceededError(text)
    if reply.status == 429 or code == "overloaded":
        return ServerUnavailableError(f"overloaded: {text}")
    if reply.status in (502, 503):
        return ServerUnavailableError(text)
    return InferenceError(f"HTTP {reply.status}: {text}")
