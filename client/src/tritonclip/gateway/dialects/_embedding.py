"""Embeddings for the dialects that answer a request as a whole: all inputs succeed, or the request fails."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fastapi import Request

from tritonclip._calls.checks import check_texts
from tritonclip._calls.token_counts import Collected
from tritonclip._messages.text import encoded_image
from tritonclip.errors import InvalidInputError, TritonClipError
from tritonclip.gateway._caller import AuthorizedCaller
from tritonclip.gateway._inference import Array
from tritonclip.gateway._problems import Problem
from tritonclip.gateway.observability.middleware import count_images
from tritonclip.gateway.payloads.bodies import Source, check_texts_size, image_files

_ITEM_INDEX = re.compile(r"^(image|text) (\d+)\b")


async def embed_images(request: Request, caller: AuthorizedCaller, sources: list[Source]) -> list[Array]:
    """Embed images: float32 [d] each, unit L2 norm. The first error is raised."""
    state = caller.state
    files = await image_files(sources, state.settings, state.urls, timeout_s=caller.deadline.left_s)
    wrong = next((file for file in files if isinstance(file, TritonClipError)), None)
    answers = [wrong] if wrong else await state.inference.embed_images(files, caller.deadline)
    wrong = next((answer for answer in answers if isinstance(answer, TritonClipError)), None)
    count_images(request, state.metrics, 0 if wrong else len(files), len(files) if wrong else 0)
    if wrong:
        raise wrong
    return [answer for answer in answers if not isinstance(answer, TritonClipError)]


async def embed_texts(caller: AuthorizedCaller, inputs: list[str]) -> list[Array]:
    """Embed texts: float32 [d] each, unit L2 norm."""
    check_texts_size("texts", inputs, caller.state.settings)
    texts, _ = check_texts(inputs)
    caller.state.metrics.texts.inc(len(texts))
    return list(await caller.state.inference.embed_texts(texts, caller.deadline))


async def embed(request: Request, caller: AuthorizedCaller, inputs: Sequence[Source | str]) -> list[Array]:
    """Embed images and texts: float32 [d] each, unit L2 norm, in the order of the inputs.

    The first error is raised. Its index is that of the input, whether image or text.
    """
    images = {index: item for index, item in enumerate(inputs) if isinstance(item, Source)}
    texts = {index: item for index, item in enumerate(inputs) if isinstance(item, str)}
    for index, text in texts.items():
        if found := encoded_image(text):
            raise InvalidInputError(
                f'text {index}: it is {found}, not a text; send it as {{"image": ...}}, as a data: URI '
                'without modality "text", or with modality "image"'
            )
    vectors: dict[int, Array] = {}
    indices = list(texts)
    try:
        if texts or not images:
            vectors |= zip(texts, await embed_texts(caller, list(texts.values())), strict=True)
        indices = list(images)
        if images:
            vectors |= zip(images, await embed_images(request, caller, list(images.values())), strict=True)
    except TritonClipError as error:
        error.message = _ITEM_INDEX.sub(lambda found: f"{found[1]} {indices[int(found[2])]}", error.message)
        raise
    return [vectors[index] for index in range(len(inputs))]


def check_not_truncated(collected: Collected, field: str, allow: str) -> None:
    """Check that the model has read each text to its end, for callers that ask for an error otherwise.

    Args:
        collected: The counts of the texts that were embedded.
        field: The field of the texts.
        allow: How to allow truncation.

    Raises:
        Problem: 400 for the first text that was truncated.
    """
    if collected.truncations:
        message = f"{field}: {collected.truncations[0]}; shorten it, or {allow}"
        raise Problem(status=400, message=message, param=field, limit=collected.token_limit)


def check_dimensions(vectors: Sequence[Array], dimensions: int | None, field: str) -> None:
    """Check the number of dimensions that a caller asks for. None and 0 ask for any.

    Raises:
        Problem: 400 if the embeddings have another number.
    """
    if dimensions not in (None, 0, len(vectors[0])):
        message = f"{field}: this model has {len(vectors[0])} and cannot shorten its embeddings; leave it out"
        raise Problem(status=400, message=message, param=field)
