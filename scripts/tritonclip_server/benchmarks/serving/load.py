"""Load generator: callers that each keep one request in flight, over the API of the system under test.

It runs in a separate process, so that its CPU time can be measured. All systems get the same files, and
requests are encoded before the clock starts. The APIs are:

- `form`: a multipart form with the fields `image` (a file) and `labels` (JSON), for LitServe and FastAPI.
- `embeddings`: JSON with an image as a data URI, for infinity. It is OpenAI's API with a modality.
- `grpc`: `ModelInfer` of Triton, for this system.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import click
import grpc
import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

from tritonclip.errors import rejection_reason

TIMEOUT_S = 600.0
RETRY_S = 0.1
"""Pause of a caller after a rejection."""
REJECTIONS = {429, 503, 504}
"""HTTP status codes of a server that did not work on a request: too many requests, unavailable, timed out."""
EMBEDDINGS_MODEL = "clip"
"""Name under which infinity serves the model."""
INFER = "/inference.GRPCInferenceService/ModelInfer"


class Api(ABC):
    """Requests over one API.

    Args:
        target: URL, or `host:port` for gRPC.
        labels: Labels of each request; empty for embeddings.
        callers: Requests in flight.
    """

    def __init__(self, target: str, labels: Sequence[str], callers: int) -> None:
        self.target, self.labels, self.callers = target, labels, callers

    @abstractmethod
    def encode(self, images: Sequence[bytes]) -> Any:
        """Make the request for these image files."""

    @abstractmethod
    def connected(self) -> AbstractAsyncContextManager[None]:
        """Return an asynchronous context manager that opens the connections."""

    @abstractmethod
    async def send(self, request: Any) -> bool:
        """Send a request and read the response; return False if it was rejected or timed out."""


class HttpApi(Api):
    """Requests over HTTP; a subclass says how an image and labels are written."""

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """See `Api`."""
        connector = aiohttp.TCPConnector(limit=self.callers)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self._session:
            yield

    async def send(self, request: Any) -> bool:
        """See `Api`.

        Raises:
            RuntimeError: The server answered with an error that is no rejection.
        """
        body, headers = request
        try:
            async with self._session.post(self.target, data=body, headers=headers) as reply:
                text = await reply.read()
        except asyncio.TimeoutError:
            return False
        if reply.status in REJECTIONS:
            return False
        if reply.status != 200:
            raise RuntimeError(f"{self.target} answered with {reply.status}: {text[:500]!r}")
        return True


class FormApi(HttpApi):
    """The API `form`."""

    BOUNDARY = "tritonclip-benchmark"

    def encode(self, images: Sequence[bytes]) -> Any:
        """See `Api`; one image per request."""
        (image,) = images
        parts = [("labels", "", json.dumps(self.labels).encode()), ("image", '; filename="image"', image)]
        body = b"".join(
            f'--{self.BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{further}\r\n\r\n'.encode()
            + content
            + b"\r\n"
            for name, further, content in parts
        )
        body += f"--{self.BOUNDARY}--\r\n".encode()
        return body, {"Content-Type": f"multipart/form-data; boundary={self.BOUNDARY}"}


class EmbeddingsApi(HttpApi):
    """The API `embeddings`."""

    def encode(self, images: Sequence[bytes]) -> Any:
        """See `Api`."""
        uris = [f"data:image/jpeg;base64,{base64.b64encode(image).decode()}" for image in images]
        content = {"model": EMBEDDINGS_MODEL, "modality": "image", "encoding_format": "base64", "input": uris}
        return json.dumps(content).encode(), {"Content-Type": "application/json"}


class GrpcApi(Api):
    """The API `grpc`: `clip_zero_shot`, or `clip_image_embedding` without labels."""

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """See `Api`."""
        options = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        async with grpc.aio.insecure_channel(self.target, options=options) as channel:
            self._infer = channel.unary_unary(INFER)
            yield

    def encode(self, images: Sequence[bytes]) -> Any:
        """See `Api`."""
        model = "clip_zero_shot" if self.labels else "clip_image_embedding"
        request = service_pb2.ModelInferRequest(model_name=model)
        self._add_input(request, "image", images)
        if self.labels:
            self._add_input(request, "labels", [label.encode() for label in self.labels])
        return request.SerializeToString()

    def _add_input(
        self, request: service_pb2.ModelInferRequest, name: str, elements: Sequence[bytes]
    ) -> None:
        request.inputs.add(name=name, datatype="BYTES", shape=[1, len(elements)])
        content = serialize_byte_tensor(np.array(elements, dtype=np.object_))
        request.raw_input_contents.append(content.item())

    async def send(self, request: Any) -> bool:
        """See `Api`.

        Raises:
            grpc.aio.AioRpcError: The server answered with an error that is no rejection.
        """
        try:
            await self._infer(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED or rejection_reason(error.details() or ""):
                return False
            raise
        return True


APIS: dict[str, type[Api]] = {"form": FormApi, "embeddings": EmbeddingsApi, "grpc": GrpcApi}


async def load(api: Api, requests: Sequence[Any], seconds: float) -> dict[str, Any]:
    """Let each caller send requests until the time is over, and at least one.

    Args:
        api: The API, not connected.
        requests: Encoded requests, which are sent in turn.
        seconds: Time after which no request begins. Those in flight are still awaited.

    Returns:
        `seconds` until the last response, `cpu_s` of this process, `latencies_s` of the answered requests,
        and the number of `rejected` ones.
    """
    upcoming: Iterator[Any] = itertools.cycle(requests)
    latencies_s: list[float] = []
    rejected = 0

    async def call() -> None:
        nonlocal rejected
        while True:
            begin = time.perf_counter()
            if await api.send(next(upcoming)):
                latencies_s.append(time.perf_counter() - begin)
            else:
                rejected += 1
                await asyncio.sleep(RETRY_S)
            if time.perf_counter() - start >= seconds:
                return

    async with api.connected():
        start, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(call() for _ in range(api.callers)))
        elapsed_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": elapsed_s, "cpu_s": cpu_s, "latencies_s": latencies_s, "rejected": rejected}


def groups(images: Sequence[bytes], size: int) -> list[Sequence[bytes]]:
    """Divide images into groups of `size`, without a smaller one at the end."""
    return [images[first : first + size] for first in range(0, len(images) - size + 1, size)]


@click.command()
@click.argument("target")
@click.option("--api", "kind", type=click.Choice(list(APIS)), required=True, help="API of the server.")
@click.option("--photos", type=click.Path(path_type=Path), required=True, help="Folder of image files.")
@click.option(
    "--labels", type=click.Path(path_type=Path), help="JSON file with a list of labels; embeddings without."
)
@click.option("--images", type=int, default=1, help="Images per request.")
@click.option("--callers", type=int, required=True, help="Requests in flight.")
@click.option("--seconds", type=float, required=True, help="Time after which no request begins.")
def main(
    target: str, kind: str, photos: Path, labels: Path | None, images: int, callers: int, seconds: float
) -> None:
    """Send requests to TARGET, and print the result as JSON."""
    texts = json.loads(labels.read_text(encoding="utf-8")) if labels else []
    api = APIS[kind](target, texts, callers)
    files = [path.read_bytes() for path in sorted(photos.iterdir())]
    requests = [api.encode(group) for group in groups(files, images)]
    click.echo(json.dumps(asyncio.run(load(api, requests, seconds))))


if __name__ == "__main__":
    main()
