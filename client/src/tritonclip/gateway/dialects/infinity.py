"""infinity's API as far as CLIP supports it, at its addresses without a prefix.

With the prefix `/v1`, the addresses for embeddings and models are those of OpenAI.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, Field

from tritonclip import DEFAULT_HYPOTHESIS_TEMPLATE
from tritonclip._calls import codec
from tritonclip._calls.token_counts import collecting
from tritonclip._images.urls import is_url
from tritonclip._messages.text import shown
from tritonclip.errors import InvalidInputError, TritonClipError
from tritonclip.gateway._caller import AuthorizedCaller, Caller
from tritonclip.gateway._dialect import Dialect
from tritonclip.gateway._models import check_model, describe_model
from tritonclip.gateway._problems import Problem, problem_of
from tritonclip.gateway.dialects import openai
from tritonclip.gateway.dialects._embedding import embed_images, embed_texts
from tritonclip.gateway.dialects.openai import EmbeddingsAnswer, EmbeddingsRequest, TokenUsage
from tritonclip.gateway.payloads.answers import json_answer
from tritonclip.gateway.payloads.bodies import Source, check_count, read_json
from tritonclip.gateway.payloads.encodings import Encoding
from tritonclip.gateway.payloads.openapi import describe, describe_errors
from tritonclip.gateway.payloads.schemas import (
    MODEL_EXAMPLE,
    PIXEL,
    TEXTS_EXAMPLE,
    ErrorAnswer,
    Texts,
    Warnings,
)

DIALECT = Dialect("infinity")
router = APIRouter(tags=["infinity"], dependencies=[DIALECT.mark()])
CAPABILITIES = ["embed", "image_embed"]
_PIXEL_URI = f"data:image/png;base64,{PIXEL}"


def _check_address(text: str) -> str:
    if not is_url(text):
        raise ValueError(f"{shown(text)} is not an image; give a data: URI or an http(s) URL")
    return text


Address = Annotated[
    str, AfterValidator(_check_address), Field(json_schema_extra={"pattern": "^(data:|https?://)"})
]
Addresses = Annotated[list[Address], Field(min_length=1, fail_fast=True)]


class EmbeddingsImageRequest(BaseModel):
    """infinity's older request for embeddings of images. Unknown members are ignored."""

    input: Addresses | Address = Field(
        description="Images as data: URIs or http(s) URLs.", examples=[[_PIXEL_URI]]
    )
    model: str | None = Field(default=None, description="As in /embeddings.", examples=["clip"])
    encoding_format: Encoding = Field(default="float", description="As in /embeddings.", examples=["float"])


class ClassifyInputsRequest(BaseModel):
    """infinity's request for classification. Unknown members are ignored."""

    input: Texts = Field(
        description="Images as data: URIs or http(s) URLs. Texts are rejected, because CLIP ranks labels for "
        "images.",
        examples=[[_PIXEL_URI]],
    )
    model: str | None = Field(default=None, description="As in /embeddings.", examples=["clip"])
    raw_scores: bool = Field(
        default=False, description="Return logits instead of their softmax.", examples=[False]
    )
    candidate_labels: Texts | None = Field(
        default=None,
        description="Labels, which infinity's own models have built in. None for the default labels.",
        examples=[TEXTS_EXAMPLE],
    )


class LabelScore(BaseModel):
    """A label and its score."""

    score: float = Field(examples=[0.93])
    label: str = Field(examples=["a red circle"])


class ClassifyInputsAnswer(BaseModel):
    """The labels of each image, the best first."""

    object: Literal["classify"]
    data: list[list[LabelScore]]
    model: str = Field(examples=[MODEL_EXAMPLE])
    usage: TokenUsage
    warnings: Warnings


class ServedModel(openai.Model):
    """The served model with the members that infinity's clients require."""

    stats: dict[str, float] = Field(description="Empty; /metrics has the figures.", examples=[{}])
    backend: Literal["triton"]
    capabilities: list[str] = Field(examples=[CAPABILITIES])


class ServedModels(BaseModel):
    """A list that holds the served model."""

    object: Literal["list"]
    data: list[ServedModel]


_IMAGES_ROUTE = describe(EmbeddingsAnswer, json=EmbeddingsImageRequest)
_IMAGES_ROUTE["responses"][422] = {
    "model": ErrorAnswer,
    "description": "The body is malformed, the list is empty, or a string cannot be an image.",
}
BODIES = (EmbeddingsImageRequest, ClassifyInputsRequest)


@router.post(
    "/embeddings",
    summary="Embed texts or images, as /v1/embeddings",
    **describe(EmbeddingsAnswer, json=EmbeddingsRequest),
)
async def embeddings(request: Request, caller: Caller) -> Response:
    """Return unit-length embeddings. An invalid input fails the request, and `param` names it."""
    return await openai.answer(request, caller, await read_json(request, EmbeddingsRequest))


@router.post("/embeddings_image", summary="Embed images", **_IMAGES_ROUTE)
async def embeddings_image(request: Request, caller: Caller) -> Response:
    """Return unit-length embeddings. Strings that cannot be images are rejected with 422, as by infinity."""
    try:
        body = await read_json(request, EmbeddingsImageRequest)
    except Problem as problem:
        raise replace(problem, status=422 if problem.status == 400 else problem.status) from problem
    return await openai.answer(
        request, caller, EmbeddingsRequest.model_validate({**body.model_dump(), "modality": "image"})
    )


@router.post(
    "/classify",
    summary="Rank labels for images",
    **describe(ClassifyInputsAnswer, json=ClassifyInputsRequest),
)
async def classify(request: Request, caller: Caller) -> Response:
    """Return the labels of each image by score. An invalid image fails the request."""
    body = await read_json(request, ClassifyInputsRequest)
    model = await caller.state.inference.model(caller.deadline)
    check_model(body.model, model, caller.state.settings)
    try:
        with collecting() as collected:
            ranked = await _rank(request, caller, body, model.logit_scale)
    except TritonClipError as error:
        raise problem_of(error, {"image": "input", "label": "candidate_labels"}) from error
    content = {
        "object": "classify",
        "data": [
            [{"score": each["score"], "label": each["label"]} for each in predictions]
            for predictions in ranked
        ],
        "model": model.checkpoint,
        "usage": {"prompt_tokens": collected.tokens, "total_tokens": collected.tokens},
        "warnings": collected.warnings,
    }
    return json_answer(content, rows="data", values=sum(map(len, ranked)))


@router.get(
    "/models",
    summary="List the served model, for infinity's clients",
    response_model=ServedModels,
    responses=describe_errors(400, 401, 404, 429, 500, 503, 504),
)
async def models(caller: Caller) -> Response:
    """Return a list with one model. Its owner is `infinity`, which infinity's clients require."""
    served = describe_model(await caller.state.inference.model(caller.deadline))
    members = {"owned_by": "infinity", "stats": {}, "backend": "triton", "capabilities": CAPABILITIES}
    return JSONResponse({"object": "list", "data": [{**served, **members}]})


async def _rank(
    request: Request, caller: AuthorizedCaller, body: ClassifyInputsRequest, logit_scale: float
) -> list[Any]:
    """Rank the labels for each image by softmax, or by logit."""
    for index, text in enumerate(body.input):
        if not is_url(text):
            raise InvalidInputError(
                f"image {index}: {shown(text)} is a text, and CLIP ranks labels for images only; send a "
                "data: URI or an http(s) URL of an image"
            )
    ranking = codec.Ranking.check(
        body.candidate_labels, hypothesis_template=DEFAULT_HYPOTHESIS_TEMPLATE, top_k=None, threshold=None
    )
    check_count("labels", len(ranking.labels) * len(body.input), caller.state.settings.max_texts)
    texts = np.stack(await embed_texts(caller, ranking.prompts))
    images = np.stack(await embed_images(request, caller, [Source(address) for address in body.input]))
    if body.raw_scores:
        return ranking.rank(codec.similarity(images, texts) * np.float32(logit_scale))
    return ranking.rank(codec.scores(images, texts, logit_scale))
