"""Calls of the client as the routes need them: an answer or an error for each image, within one deadline."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from asgi_correlation_id import correlation_id

from tritonclip import AsyncClient
from tritonclip._calls.request import Deadline, RequestOptions
from tritonclip._types import ModelInfo, Prediction
from tritonclip.errors import DeadlineExceededError, InvalidInputError, TritonClipError

T = TypeVar("T")
R = TypeVar("R")
Array = npt.NDArray[np.float32]
Images = Sequence[bytes | TritonClipError]

GROUPS_AT_ONCE = 4  # requests of one caller's many images
NO_PATIENCE_S = 1e-3  # an outage is told at once: whoever calls the gateway decides whether to come again
MODELS_FOR_S = 30.0
_PLACE = re.compile(r"^image (\d+)\b")


class Inference:
    """The client, shared by all requests.

    Args:
        client: Is closed by whoever made it.
    """

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self._models: list[ModelInfo] = []
        self._asked_s = float("-inf")

    async def classify(
        self, images: Images, deadline: Deadline, **ranking: Any
    ) -> list[list[Prediction] | TritonClipError]:
        """Rank labels for each image; `ranking` are the keyword arguments of `AsyncClient.classify`."""
        options = _options(deadline)
        return await self._each(
            images,
            deadline,
            lambda image: self.client.classify(image, **ranking, **options),
            lambda good: self.client.classify_many(good, **ranking, **options, **_many()),
        )

    async def embed_images(self, images: Images, deadline: Deadline) -> list[Array | TritonClipError]:
        """Embed each image: float32 [d], unit L2 norm."""
        options = _options(deadline)
        return await self._each(
            images,
            deadline,
            lambda image: self.client.embed_images(image, **options),
            lambda good: self.client.embed_images_many(good, **options, **_many()),
        )

    async def embed_texts(self, texts: list[str], deadline: Deadline) -> Array:
        """Embed texts: float32 [m, d], unit L2 norm."""
        return await self.client.embed_texts(texts, **_options(deadline))

    async def model(self, deadline: Deadline) -> ModelInfo:
        """The weights that are served, asked for twice a minute at most.

        Raises:
            TritonClipError: If they are not known and cannot be had.
        """
        if time.monotonic() - self._asked_s > MODELS_FOR_S:
            self._models = await self.client.models(**_options(deadline))
            self._asked_s = time.monotonic()
        return self._models[0]

    async def _each(
        self,
        images: Images,
        deadline: Deadline,
        one: Callable[[bytes], Awaitable[R]],
        many: Callable[[list[bytes]], AsyncIterator[R | TritonClipError]],
    ) -> list[R | TritonClipError]:
        """Answer the images that could be read, and put the answers where the images stood."""
        places = [place for place, image in enumerate(images) if isinstance(image, bytes)]
        good = [image for image in images if isinstance(image, bytes)]
        answers: list[R | TritonClipError] = []
        if len(good) == 1:
            answers = [await _error_of_image(one(good[0]))]  # the client itself minds the deadline
        elif good:
            answers = await _within(_listed(many(good)), deadline)
        results: list[Any] = list(images)
        for place, answer in zip(places, answers, strict=True):
            if isinstance(answer, TritonClipError):
                answer.message = _PLACE.sub(f"image {place}", answer.message)
            results[place] = answer
        return results


def _options(deadline: Deadline) -> RequestOptions:
    return {"timeout_s": deadline.left_s, "request_id": correlation_id.get() or ""}


def _many() -> dict[str, Any]:
    return {"on_error": "return", "concurrency": GROUPS_AT_ONCE, "patience_s": NO_PATIENCE_S}


async def _within(work: Awaitable[T], deadline: Deadline) -> T:
    try:
        return await asyncio.wait_for(work, deadline.left_s)
    except asyncio.TimeoutError as error:
        if isinstance(error, TritonClipError):  # the client's own, which is one too
            raise
        raise DeadlineExceededError("no answer within the deadline") from error


async def _error_of_image(work: Awaitable[R]) -> R | TritonClipError:
    """The answer, or the error where it is the image's fault; a label's is raised."""
    try:
        return await work
    except InvalidInputError as error:
        if not _PLACE.match(error.message):
            raise
        return error


async def _listed(results: AsyncIterator[R]) -> list[R]:
    return [result async for result in results]
