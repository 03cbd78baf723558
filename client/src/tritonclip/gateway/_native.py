"""The gateway's own API: classify and compare, each image with a result or an error of its own."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from tritonclip._calls.checks import check_texts
from tritonclip._calls.codec import Ranking, similarity
from tritonclip._calls.token_counts import TokenCount, collecting
from tritonclip.errors import TritonClipError
from tritonclip.gateway import _schemas as schemas
from tritonclip.gateway._bodies import Body, Source, check_count, image_files, is_form, read_form, read_json
from tritonclip.gateway._door import Admitted, Caller
from tritonclip.gateway._inference import Array
from tritonclip.gateway._observe import count_images, note
from tritonclip.gateway._problems import Problem, problem_of
from tritonclip.gateway._routing import describe

M = TypeVar("M", bound=schemas.SimilarityFields | schemas.ClassifyFields)
R = TypeVar("R")
IMAGE_FIELDS = ("images", "image")
router = APIRouter(tags=["native"])


@router.post(
    "/v1/classify",
    summary="Rank labels for images",
    **describe(schemas.ClassifyAnswer, json=schemas.ClassifyRequest, form=(schemas.ClassifyFields, "images")),
)
async def classify(request: Request, caller: Caller) -> Response:
    """Each image gets a result or an error of its own; where none could be answered, the status tells why.

    A form takes files in the field `images`, and each label in a field `labels` of its own.
    """
    body = await _read(request, caller, schemas.ClassifyRequest, schemas.ClassifyFields)
    ranking = body.fields.model_dump(exclude={"images"})
    labels = Ranking.check(**ranking).labels  # before any image is looked at
    check_count("labels", len(labels), caller.state.settings.max_texts)
    images = await _files(body, caller)
    timer = _Timer()
    with collecting() as counts:
        answers = await caller.state.inference.classify(images, caller.deadline, **ranking)
    headers = timer.headers()
    results = _results(request, caller, body.images, answers, lambda found: {"predictions": found})
    return JSONResponse(await _content(caller, results, counts), headers=headers)


@router.post(
    "/v1/similarity",
    summary="Compare images with texts",
    **describe(
        schemas.SimilarityAnswer, json=schemas.SimilarityRequest, form=(schemas.SimilarityFields, "images")
    ),
)
async def compare(request: Request, caller: Caller) -> Response:
    """The cosine of each image with each text, -1 to 1."""
    body = await _read(request, caller, schemas.SimilarityRequest, schemas.SimilarityFields)
    texts, _ = check_texts(body.fields.texts)
    check_count("texts", len(texts), caller.state.settings.max_texts)
    images = await _files(body, caller)
    timer = _Timer()
    with collecting() as counts:
        text_embeds = await caller.state.inference.embed_texts(texts, caller.deadline)
    answers = await caller.state.inference.embed_images(images, caller.deadline)
    headers = timer.headers()

    def cosines(image_embed: Array) -> dict[str, Any]:
        return {"similarities": similarity(image_embed[None], text_embeds)[0].tolist()}

    results = _results(request, caller, body.images, answers, cosines)
    return JSONResponse(await _content(caller, results, counts, texts=texts), headers=headers)


async def _read(request: Request, caller: Admitted, whole: type[Any], fields: type[M]) -> Body[M]:
    """A form with its images beside the fields, or JSON, whose images are a field."""
    if is_form(request):
        return await read_form(request, fields, caller.state.settings, IMAGE_FIELDS)
    read = await read_json(request, whole)
    images = [read.images] if isinstance(read.images, str) else read.images
    return Body([Source(image) for image in images], read)


async def _files(body: Body[Any], caller: Admitted) -> list[bytes | TritonClipError]:
    state = caller.state
    return await image_files(body.images, state.settings, state.urls, timeout_s=caller.deadline.left_s)


class _Timer:
    """Tells the caller how long the server took."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()

    def headers(self) -> dict[str, str]:
        return {"Server-Timing": f"triton;dur={(time.perf_counter() - self._start_s) * 1000:.1f}"}


def _results(
    request: Request,
    caller: Admitted,
    sources: Sequence[Source],
    answers: Sequence[R | TritonClipError],
    result: Callable[[R], dict[str, Any]],
) -> list[dict[str, Any]]:
    """What is told of each image; raises the first error where there is nothing else to tell."""
    results: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for index, (source, answer) in enumerate(zip(sources, answers, strict=True)):
        told = {"index": index, "name": source.name}
        if isinstance(answer, TritonClipError):
            problems.append(problem_of(answer))
            results.append(told | {"error": problems[-1].error})
        else:
            results.append(told | result(answer))
    count_images(request, caller.state.metrics, len(results) - len(problems), len(problems))
    note(request, cause=next((problem.cause for problem in problems if problem.cause), None))
    if len(problems) == len(results):
        raise dataclasses.replace(problems[0], extra={"results": results})
    return results


async def _content(
    caller: Admitted, results: list[dict[str, Any]], counts: Sequence[TokenCount], **more: Any
) -> dict[str, Any]:
    """The body of an answer."""
    caller.state.metrics.texts.inc(len(counts))
    tokens = sum(count.tokens for count in counts)
    return {
        "model": (await caller.state.inference.model(caller.deadline)).checkpoint,
        **more,
        "results": results,
        "warnings": [count.warning for count in counts if count.warning],
        "usage": {
            "images": sum("error" not in result for result in results),
            "texts": len(counts),
            "prompt_tokens": tokens,
            "total_tokens": tokens,
        },
    }
