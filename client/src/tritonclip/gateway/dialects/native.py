"""The gateway's own API: classification and similarity, with a result or an error for each image."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, WithJsonSchema

from tritonclip._calls import codec
from tritonclip._calls.checks import (
    DEFAULT_HYPOTHESIS_TEMPLATE,
    DEFAULT_LABELS,
    check_template,
    check_texts,
)
from tritonclip._calls.token_counts import Collected, collecting
from tritonclip._messages.text import json_array
from tritonclip.errors import InvalidInputError, TritonClipError
from tritonclip.gateway._caller import AuthorizedCaller, Caller
from tritonclip.gateway._dialect import Dialect
from tritonclip.gateway._inference import Array
from tritonclip.gateway._problems import Problem, problem_of
from tritonclip.gateway.observability.middleware import count_images, note
from tritonclip.gateway.payloads.answers import json_answer
from tritonclip.gateway.payloads.bodies import (
    Body,
    Source,
    check_count,
    check_texts_size,
    image_files,
    is_form,
    read_form,
    read_json,
)
from tritonclip.gateway.payloads.openapi import describe
from tritonclip.gateway.payloads.schemas import (
    MODEL_EXAMPLE,
    PIXEL,
    TEXTS_EXAMPLE,
    Error,
    NotBlank,
    StrictRequest,
    Texts,
    Warnings,
)

R = TypeVar("R")
IMAGE_FIELDS = ("images", "image")
MAX_PREDICTION_CHARS = 16 * 2**20
CHARS_PER_SCORE = 45
"""Characters of a prediction in JSON apart from its label and its cosine."""
CHARS_PER_COSINE = 35
DIALECT = Dialect("native")
router = APIRouter(tags=["native"], dependencies=[DIALECT.mark()])

Images = Annotated[
    Texts | NotBlank,
    Field(
        description="One image or several, each as base64 of an encoded file (JPEG, PNG, WebP, GIF, BMP, "
        "TIFF ...), as a data: URI, or as an http(s) URL if the operator allows URLs.",
        examples=[[PIXEL]],
    ),
]

Template = Annotated[str, WithJsonSchema({"type": "string", "pattern": r"^[^{}]*\{\}[^{}]*$"})]
Templates = Annotated[list[Template], Field(json_schema_extra={"minItems": 1}, fail_fast=True)]


class ClassifyFields(StrictRequest):
    """Labels, and how to rank them."""

    labels: Texts | NotBlank | None = Field(
        default=None,
        description="Candidate labels. A list, or a repeated form field, is never split. A single string "
        "that is a JSON array is that array; any other is split at its commas. Default, with a warning: "
        + ", ".join(DEFAULT_LABELS)
        + ".",
        examples=[TEXTS_EXAMPLE],
    )
    hypothesis_template: Templates | Template = Field(
        default=DEFAULT_HYPOTHESIS_TEMPLATE,
        description="Sentence with one {} for the label. Use '{}' if the labels are sentences. With several, "
        "as a list or a repeated form field, the embedding of a label is the mean over its sentences.",
        examples=[[DEFAULT_HYPOTHESIS_TEMPLATE]],
    )
    top_k: int | None = Field(
        default=None, ge=1, description="Maximum number of labels per image, best first.", examples=[5]
    )
    threshold: float | None = Field(default=None, ge=0, le=1, description="Minimum score.", examples=[0.01])
    cosines: bool = Field(
        default=False,
        description="Add to each prediction the cosine of the image with the label in its template, -1 to 1.",
        examples=[True],
    )


class ClassifyRequest(ClassifyFields):
    """Images and candidate labels."""

    images: Images


class SimilarityFields(StrictRequest):
    """Texts to compare images with."""

    texts: Texts | NotBlank = Field(
        description="One text or several, embedded without a template.", examples=[TEXTS_EXAMPLE]
    )


class SimilarityRequest(SimilarityFields):
    """Images and texts."""

    images: Images


class Prediction(BaseModel):
    """A label's score: a softmax over all candidate labels."""

    score: float = Field(examples=[0.998])
    label: str = Field(examples=["a red circle"])
    cosine: float | None = Field(
        default=None, description="Cosine with the image, if `cosines` was set.", examples=[0.31]
    )


class _ImageResult(BaseModel):
    index: int = Field(description="Index of the image in the request.", examples=[0])
    name: str | None = Field(description="File name of the image, if any.", examples=["red_circle.jpg"])


class Ranking(_ImageResult):
    """An image's labels, highest score first."""

    predictions: list[Prediction]


class Similarities(_ImageResult):
    """An image's cosine with each text, in the order of the texts."""

    similarities: list[float] = Field(examples=[[0.51, -0.12]])


class ImageError(_ImageResult):
    """The error of an image that failed while others succeeded."""

    error: Error


class Usage(BaseModel):
    """Size of the request."""

    images: int = Field(description="Images that were answered.", examples=[1])
    texts: int = Field(description="Labels or texts.", examples=[2])
    prompt_tokens: int = Field(
        description="Tokens of the labels or texts before truncation, templates included.", examples=[22]
    )
    total_tokens: int = Field(examples=[22])


class ClassifyAnswer(BaseModel):
    """Ranked labels of each image."""

    model: str = Field(examples=[MODEL_EXAMPLE])
    results: list[Ranking | ImageError]
    warnings: Warnings
    usage: Usage


class SimilarityAnswer(BaseModel):
    """Cosines of each image."""

    model: str = Field(examples=[MODEL_EXAMPLE])
    texts: list[str] = Field(examples=[TEXTS_EXAMPLE])
    results: list[Similarities | ImageError]
    warnings: Warnings
    usage: Usage


BODIES = (ClassifyRequest, SimilarityRequest)
M = TypeVar("M", bound=SimilarityFields | ClassifyFields)


@router.post(
    "/v1/classify",
    summary="Rank labels for images",
    **describe(ClassifyAnswer, json=ClassifyRequest, form=(ClassifyFields, "images")),
)
async def classify(request: Request, caller: Caller) -> Response:
    """Return a result or an error for each image.

    If every image fails, the status is that of the first error. A form sends files in the field `images`, and
    repeats the field `labels` for each label.
    """
    body = await _read(request, caller, ClassifyRequest, ClassifyFields)
    with collecting() as collected:
        ranking, templates = _check_ranking(body.fields, len(body.images), caller)  # before decoding images
        images = await _files(body, caller)
        timer = _Timer()
        inference, cosines = caller.state.inference, body.fields.cosines
        answers: Sequence[Any]
        if cosines or len(templates) > 1:
            answers = await inference.classify_by_embeddings(
                images, caller.deadline, ranking, templates, cosines=cosines
            )
        else:
            answers = await inference.classify(
                images,
                caller.deadline,
                labels=ranking.labels,
                hypothesis_template=ranking.template,
                top_k=ranking.top_k,
                threshold=ranking.threshold,
            )
    headers = timer.headers()
    results = _results(request, caller, body.images, answers, lambda found: {"predictions": found})
    content = await _content(caller, results, collected)
    values = sum(len(result.get("predictions", ())) for result in results)
    return json_answer(content, rows="results", values=values, headers=headers)


@router.post(
    "/v1/similarity",
    summary="Compare images with texts",
    **describe(SimilarityAnswer, json=SimilarityRequest, form=(SimilarityFields, "images")),
)
async def compare(request: Request, caller: Caller) -> Response:
    """Return the cosine of each image with each text, -1 to 1."""
    body = await _read(request, caller, SimilarityRequest, SimilarityFields)
    given: Any = body.fields.texts
    check_texts_size("texts", given, caller.state.settings)
    if isinstance(given, str) and is_form(request):
        given = json_array(given) or given
    texts, _ = check_texts(given)
    check_count("texts", len(texts), caller.state.settings.max_texts)
    images = await _files(body, caller)
    timer = _Timer()
    with collecting() as collected:
        text_embeds = await caller.state.inference.embed_texts(texts, caller.deadline)
    answers = await caller.state.inference.embed_images(images, caller.deadline)
    headers = timer.headers()

    results = _results(request, caller, body.images, answers, lambda embed: {"similarities": embed})
    content = await _content(caller, results, collected, texts=texts)
    content["results"] = (_with_cosines(result, text_embeds) for result in results)
    return json_answer(content, rows="results", values=len(results) * len(texts), headers=headers)


def _check_ranking(fields: Any, images: int, caller: AuthorizedCaller) -> tuple[codec.Ranking, list[str]]:
    """Return the checked ranking and templates, once it is certain that they and the answer are bounded.

    Raises:
        InvalidInputError: If an argument is invalid, or the answer would be too large.
    """
    settings, given, templates = caller.state.settings, fields.labels, fields.hypothesis_template
    templates = [templates] if isinstance(templates, str) else templates
    if not templates:
        raise InvalidInputError("hypothesis_template: the list is empty; give at least one template")
    check_count("hypothesis_template", len(templates), settings.max_texts)
    if given is not None:
        check_texts_size("labels", given, settings, templates)
    templates = [check_template(template) for template in templates]
    checked = codec.Ranking.check(
        given, hypothesis_template=templates[0], top_k=fields.top_k, threshold=fields.threshold
    )
    labels = checked.labels
    check_texts_size("labels", labels, settings, templates)
    kept = min(checked.top_k or len(labels), len(labels))
    chars = sum(map(len, labels)) if kept == len(labels) else kept * max(map(len, labels))
    chars_per_label = CHARS_PER_SCORE + CHARS_PER_COSINE * fields.cosines
    answer_chars = images * (chars + chars_per_label * kept)
    if answer_chars > MAX_PREDICTION_CHARS:
        raise InvalidInputError(
            f"top_k: {kept} labels for each of {images} images make an answer of about {answer_chars} "
            f"characters, at most {MAX_PREDICTION_CHARS} per request; set a smaller top_k or send less"
        )
    return checked, templates


def _with_cosines(result: dict[str, Any], text_embeds: Array) -> dict[str, Any]:
    """Replace the embedding in an image's result by its cosines with the texts."""
    if "error" in result:
        return result
    cosines = codec.similarity(result["similarities"][None], text_embeds)[0].tolist()
    return {**result, "similarities": cosines}


async def _read(
    request: Request, caller: AuthorizedCaller, json_model: type[Any], form_model: type[M]
) -> Body[M]:
    """Parse a form, which sends images as files, or JSON, in which images are a member."""
    if is_form(request):
        return await read_form(request, form_model, caller.state.settings, IMAGE_FIELDS)
    read = await read_json(request, json_model)
    images = [read.images] if isinstance(read.images, str) else read.images
    return Body([Source(image) for image in images], read)


async def _files(body: Body[Any], caller: AuthorizedCaller) -> list[bytes | TritonClipError]:
    state = caller.state
    return await image_files(body.images, state.settings, state.urls, timeout_s=caller.deadline.left_s)


class _Timer:
    """Measures the time spent on Triton, for the header Server-Timing."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()

    def headers(self) -> dict[str, str]:
        return {"Server-Timing": f"triton;dur={(time.perf_counter() - self._start_s) * 1000:.1f}"}


def _results(
    request: Request,
    caller: AuthorizedCaller,
    sources: Sequence[Source],
    answers: Sequence[R | TritonClipError],
    result: Callable[[R], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Build the result of each image.

    Raises:
        Problem: The first image's error, if every image failed.
    """
    results: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for index, (source, answer) in enumerate(zip(sources, answers, strict=True)):
        image = {"index": index, "name": source.name}
        if isinstance(answer, TritonClipError):
            problems.append(problem_of(answer))
            results.append(image | {"error": problems[-1].error})
        else:
            results.append(image | result(answer))
    count_images(request, caller.state.metrics, len(results) - len(problems), len(problems))
    note(request, cause=next((problem.cause for problem in problems if problem.cause), None))
    if len(problems) == len(results):
        raise dataclasses.replace(problems[0], extra={"results": results})
    return results


async def _content(
    caller: AuthorizedCaller, results: list[dict[str, Any]], collected: Collected, **more: Any
) -> dict[str, Any]:
    """Build the body of a response."""
    caller.state.metrics.texts.inc(collected.texts)
    return {
        "model": (await caller.state.inference.model(caller.deadline)).checkpoint,
        **more,
        "results": results,
        "warnings": collected.warnings,
        "usage": {
            "images": sum("error" not in result for result in results),
            "texts": collected.texts,
            "prompt_tokens": collected.tokens,
            "total_tokens": collected.tokens,
        },
    }
