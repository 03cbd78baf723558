"""Calls to the client for the routes: one result or error per image, within one deadline."""

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
from tritonclip._calls import codec
from tritonclip._calls.label_prompts import LabelPrompts
from tritonclip._calls.request import Deadline, RequestOptions
from tritonclip._calls.steps import Flow
from tritonclip._types import ModelInfo, Prediction
from tritonclip.errors import DeadlineExceededError, InvalidInputError, TritonClipError

T = TypeVar("T")
R = TypeVar("R")
Array = npt.NDArray[np.float32]
Images = Sequence[bytes | TritonClipError]

CONCURRENT_GROUPS = 4  # requests to Triton in flight for one caller with many images
NO_PATIENCE_S = 1e-3  # report an outage immediately; the caller decides whether to retry
MODELS_CACHE_S = 30.0
_IMAGE_INDEX = re.compile(r"^image (\d+)\b")


class Inference:
    """The client, shared by all requests.

    Args:
        client: A client that its creator closes.
    """

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self._models: list[ModelInfo] = []
        self._models_read_s = float("-inf")

    async def classify(
        self, images: Images, deadline: Deadline, **ranking: Any
    ) -> list[list[Prediction] | TritonClipError]:
        """Rank labels for each image; `ranking` holds keyword arguments of `AsyncClient.classify`."""
        options = _options(deadline)
        return await self._per_image(
            images,
            deadline,
            lambda image: self.client.classify(image, **ranking, **options),
            lambda good: self.client.classify_many(good, **ranking, **options, **_many()),
        )

    async def classify_by_embeddings(
        self,
        images: Images,
        deadline: Deadline,
        ranking: codec.Ranking,
        templates: list[str],
        *,
        cosines: bool,
    ) -> list[list[Prediction] | TritonClipError]:
        """Rank labels as `classify` does, but from embeddings, which are averaged over several templates.

        Args:
            images: The images.
            deadline: The deadline of the request.
            ranking: The labels, and how to rank them.
            templates: The checked templates.
            cosines: Add to each prediction its `cosine`.
        """
        prompts = LabelPrompts(ranking.labels, templates)
        parts = [await self.run(one, deadline) for one in prompts.requests()]
        text_embeds = prompts.label_embeds(parts)
        scale = (await self.model(deadline)).logit_scale
        answers = await self.embed_images(images, deadline)
        return [
            answer
            if isinstance(answer, TritonClipError)
            else _ranked(answer, text_embeds, ranking, scale, cosines=cosines)
            for answer in answers
        ]

    async def embed_images(self, images: Images, deadline: Deadline) -> list[Array | TritonClipError]:
        """Embed each image: float32 [d], unit L2 norm."""
        options = _options(deadline)
        return await self._per_image(
            images,
            deadline,
            lambda image: self.client.embed_images(image, **options),
            lambda good: self.client.embed_images_many(good, **options, **_many()),
        )

    async def embed_texts(self, texts: list[str], deadline: Deadline) -> Array:
        """Embed texts: float32 [m, d], unit L2 norm."""
        return await self.client.embed_texts(texts, **_options(deadline))

    async def model(self, deadline: Deadline) -> ModelInfo:
        """Return the served model, read from the server at most twice per minute.

        Raises:
            TritonClipError: If the model is not cached and cannot be read.
        """
        if time.monotonic() - self._models_read_s > MODELS_CACHE_S:
            self._models = await self.client.models(**_options(deadline))
            self._models_read_s = time.monotonic()
        return self._models[0]

    async def run(self, flow: Flow[T], deadline: Deadline) -> T:
        """Run a flow of the client."""
        return await self.client._run(flow, self.client._start(_options(deadline)))

    async def _per_image(
        self,
        images: Images,
        deadline: Deadline,
        one: Callable[[bytes], Awaitable[R]],
        many: Callable[[list[bytes]], AsyncIterator[R | TritonClipError]],
    ) -> list[R | TritonClipError]:
        """Send the readable images and return one result or error per image, in the order of `images`."""
        indices = [index for index, image in enumerate(images) if isinstance(image, bytes)]
        good = [image for image in images if isinstance(image, bytes)]
        answers: list[R | TritonClipError] = []
        if len(good) == 1:
            answers = [await _catch_image_error(one(good[0]))]  # the client itself enforces the deadline
        elif good:
            answers = await _within(_collect(many(good)), deadline)
        results: list[Any] = list(images)
        for index, answer in zip(indices, answers, strict=True):
            if isinstance(answer, TritonClipError):
                answer.message = _IMAGE_INDEX.sub(f"image {index}", answer.message)
            results[index] = answer
        return results


def _ranked(
    image_embed: Array, text_embeds: Array, ranking: codec.Ranking, logit_scale: float, *, cosines: bool
) -> list[Any]:
    """Rank the labels of float32 [m, d] for an image of float32 [d], each with its score."""
    image_embeds = image_embed[None]
    (ranked,) = ranking.rank(codec.scores(image_embeds, text_embeds, logit_scale))
    if not cosines:
        return ranked
    (found,) = codec.similarity(image_embeds, text_embeds).tolist()
    cosine = dict(zip(ranking.labels, found, strict=True))
    return [{**prediction, "cosine": cosine[prediction["label"]]} for prediction in ranked]


def _options(deadline: Deadline) -> RequestOptions:
    return {"timeout_s": deadline.left_s, "request_id": correlation_id.get() or ""}


def _many() -> dict[str, Any]:
    return {"on_error": "return", "concurrency": CONCURRENT_GROUPS, "patience_s": NO_PATIENCE_S}


async def _within(work: Awaitable[T], deadline: Deadline) -> T:
    try:
        return await asyncio.wait_for(work, deadline.left_s)
    except asyncio.TimeoutError as error:
        if isinstance(error, TritonClipError):  # the client's DeadlineExceededError is a TimeoutError too
            raise
        raise DeadlineExceededError("no answer within the deadline") from error


async def _catch_image_error(work: Awaitable[R]) -> R | TritonClipError:
    """Return the answer, or the error if an image caused it; an error about a label is raised."""
    try:
        return await work
    except InvalidInputError as error:
        if not _IMAGE_INDEX.match(error.message):
            raise
        return error


async def _collect(results: AsyncIterator[R]) -> list[R]:
    return [result async for result in results]
