"""Callers of the server: Triton through the client package without retries, and the REST gateway."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tritonclient.grpc
import tritonclient.http
import urllib3
from tritonclient.utils import InferenceServerException

from tritonclip import (
    Client,
    DeadlineExceededError,
    InferenceError,
    InvalidInputError,
    ServerUnavailableError,
)
from tritonclip.errors import from_failure

from .settings import LoadSettings
from .workload import EMPTY_TEXT, NOT_AN_IMAGE, TRUNCATED, Fault, Job

NO_IMAGE = b"this is not an image file, and the server should say so"


class Caller(Protocol):
    """Sends jobs, and raises the errors of the client package."""

    def send(self, job: Job) -> Any:
        """Return the answer to a job, in the form that `FirstAnswers.check` takes."""

    def close(self) -> None:
        """Close all connections."""


def image_file(pictures: Sequence[bytes], number: int, what: str | None) -> bytes:
    """Return the file of a picture, damaged as requested."""
    if what == NOT_AN_IMAGE:
        return NO_IMAGE
    file = pictures[number]
    return file[: len(file) // 2] if what == TRUNCATED else file


def image_files(pictures: Sequence[bytes], job: Job) -> list[bytes]:
    """Return the image files of a job, with the one at its fault damaged."""
    fault = job.fault or Fault("", -1)
    return [
        image_file(pictures, number, fault.what if index == fault.index else None)
        for index, number in enumerate(job.images)
    ]


class TritonCaller:
    """Caller of Triton through the client package; requests that it would reject go through `tritonclient`.

    Args:
        protocol: `grpc` or `http`.
        settings: Addresses and deadline.
        pictures: Image files, by the number that jobs use.
    """

    def __init__(self, protocol: str, settings: LoadSettings, pictures: Sequence[bytes]) -> None:
        self._module = tritonclient.grpc if protocol == "grpc" else tritonclient.http
        self._url = settings.grpc_url if protocol == "grpc" else settings.http_url
        # A single attempt, because retries would hide rejections.
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
        """Return the answer to a job."""
        if job.fault and job.fault.what == EMPTY_TEXT:
            return self._send_plain(job, job.fault.index)
        return self._sends[job.kind](job)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
        if self._plain is not None:
            self._plain.close()

    def _send_plain(self, job: Job, empty: int) -> Any:
        """Send a request with an empty text, which the client package would reject."""
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
            endpoint, limit_s = self._client.endpoint, self._deadline_s
            raise from_failure(error, model=model, endpoint=endpoint, timeout_s=limit_s) from error

    def _plain_client(self) -> Any:
        if self._plain is None:
            url = self._client.endpoint.partition("://")[2]
            self._plain = self._module.InferenceServerClient(url)
        return self._plain


class GatewayCaller:
    """Caller of the REST gateway: forms for classification, OpenAI's request format for embeddings.

    Args:
        settings: Address of the gateway, and deadline.
        pictures: Image files, by the number that jobs use.
    """

    def __init__(self, settings: LoadSettings, pictures: Sequence[bytes]) -> None:
        self._url = (settings.gateway_url or "").rstrip("/")
        self._pictures = pictures
        self._pool = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(total=settings.deadline_s))

    def send(self, job: Job) -> Any:
        """Return the answer to a job, or raise the client package's error for the gateway's status."""
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
        """Close all connections."""
        self._pool.clear()

    def _post(self, path: str, **body: Any) -> dict[str, Any]:
        try:
            reply = self._pool.request("POST", self._url + path, **body)
        except urllib3.exceptions.TimeoutError as error:
            raise DeadlineExceededError(f"no answer from {self._url}") from error
        except urllib3.exceptions.HTTPError as error:
            raise ServerUnavailableError(f"cannot call {self._url}: {error}") from error
        if reply.status != 200:
            raise _gateway_error(reply)
        answer: dict[str, Any] = reply.json()
        return answer


def _vectors(data: list[dict[str, Any]]) -> np.ndarray:
    """Convert OpenAI's list of embeddings to float32 [n, d]."""
    return np.array([np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in data])


def _rankings(results: list[dict[str, Any]]) -> list[Any]:
    """Return the predictions of each image; one invalid image fails the whole job, as over gRPC."""
    for result in results:
        if "error" in result:
            raise InvalidInputError(result["error"]["message"])
    return [result["predictions"] for result in results]


def _gateway_error(reply: urllib3.BaseHTTPResponse) -> Exception:
    """Return the error that the client package would have raised."""
    try:
        error = reply.json()["error"]
        text, code = error["message"], error["code"]
    except (ValueError, KeyError, TypeError):  # not an answer of the gateway
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
