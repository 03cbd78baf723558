"""OpenAI's API as far as CLIP supports it: embeddings of texts and images, and the list of models."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, model_validator

from tritonclip._calls.token_counts import SHOWN_CHARACTERS, collecting
from tritonclip._images.urls import is_url
from tritonclip._messages.text import is_image_uri, shortest_floats, shown
from tritonclip.errors import TritonClipError
from tritonclip.gateway._caller import Caller
from tritonclip.gateway._dialect import Dialect
from tritonclip.gateway._inference import Array
from tritonclip.gateway._models import check_model, describe_model
from tritonclip.gateway._problems import Problem, problem_of
from tritonclip.gateway.dialects._embedding import embed
from tritonclip.gateway.payloads.answers import json_answer
from tritonclip.gateway.payloads.bodies import Source, read_json
from tritonclip.gateway.payloads.openapi import describe, describe_errors
from tritonclip.gateway.payloads.schemas import MODEL_EXAMPLE, PIXEL, TEXTS_EXAMPLE, NotBlank, Warnings

FIELDS = {"image": "input", "text": "input"}
_MODEL_ERRORS = describe_errors(400, 401, 404, 429, 500, 503, 504)
DIALECT = Dialect("openai")
router = APIRouter(tags=["OpenAI"], dependencies=[DIALECT.mark()])


class ImageUrl(BaseModel):
    """The address of an image. Unknown members are ignored."""

    url: NotBlank = Field(
        description="A data: URI, or an http(s) URL.", examples=[f"data:image/png;base64,{PIXEL}"]
    )


class InputItem(BaseModel):
    """An image or a text, exactly one of which is given. Unknown members are ignored."""

    text: NotBlank | None = Field(default=None, description="A text.", examples=[TEXTS_EXAMPLE[0]])
    image: NotBlank | None = Field(
        default=None, description="An image as base64, a data: URI, or an http(s) URL.", examples=[PIXEL]
    )
    image_url: NotBlank | ImageUrl | None = Field(
        default=None,
        description="An image, as in OpenAI's chat messages.",
        examples=[{"url": f"data:image/png;base64,{PIXEL}"}],
    )

    @model_validator(mode="after")
    def _check_one(self) -> InputItem:
        if sum(value is not None for value in (self.text, self.image, self.image_url)) != 1:
            raise ValueError("give exactly one of text, image and image_url")
        return self

    @property
    def source(self) -> Source | str:
        """The image, or the text."""
        if self.text is not None:
            return self.text
        address = self.image if self.image is not None else self.image_url
        return Source(address.url if isinstance(address, ImageUrl) else str(address))


class EmbeddingsRequest(BaseModel):
    """OpenAI's request, extended for images. Unknown members are ignored."""

    input: (
        Annotated[list[NotBlank | InputItem], Field(json_schema_extra={"minItems": 1}, fail_fast=True)]
        | NotBlank
        | InputItem
    ) = Field(
        description="Texts and images. Without `modality`, a string is an image if it begins with "
        "`data:image/`, and otherwise a text. An object with `image` or `image_url` is always an image.",
        examples=[TEXTS_EXAMPLE],
    )
    model: str | None = Field(
        default=None,
        description="The model's id from /v1/models, the last part of that id, or `clip`.",
        examples=["clip"],
    )
    modality: Literal["text", "image"] | None = Field(
        default=None,
        description="Type of all strings of the input. With `image` they are data: URIs, base64 or http(s) "
        "URLs.",
        examples=["text"],
    )
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="Numbers, or base64 of little-endian float32.", examples=["float"]
    )
    dimensions: int | None = Field(
        default=None,
        description="Must be the model's own dimension, because CLIP embeddings cannot be shortened.",
        examples=[512],
    )


class Embedding(BaseModel):
    """An embedding of unit length."""

    object: Literal["embedding"]
    index: int = Field(examples=[0])
    embedding: list[float] | str = Field(description="Numbers, or base64.", examples=[[0.012, -0.034]])


class TokenUsage(BaseModel):
    """Tokens of the texts before truncation, start and end tokens included. Images count no tokens."""

    prompt_tokens: int = Field(examples=[10])
    total_tokens: int = Field(examples=[10])


class EmbeddingsAnswer(BaseModel):
    """OpenAI's list of embeddings."""

    object: Literal["list"]
    data: list[Embedding]
    model: str = Field(examples=[MODEL_EXAMPLE])
    usage: TokenUsage
    warnings: Warnings


class Model(BaseModel):
    """The served model. Embeddings are comparable if their models have the same `identity`."""

    id: str = Field(examples=[MODEL_EXAMPLE])
    object: Literal["model"]
    created: int = Field(description="Always 0, because the date is unknown.", examples=[0])
    owned_by: str = Field(examples=["tritonclip"])
    revision: str = Field(description="Commit on the Hugging Face Hub, or `local`.", examples=["local"])
    sha256: str = Field(description="SHA-256 checksum of the weights.")
    identity: str = Field(
        description="Digest of everything that can change an answer: weights, settings, tokenizer and code."
    )
    random_weights: bool = Field(
        description="True if the weights are random numbers for load tests.", examples=[False]
    )
    demo_weights: bool = Field(
        description="True if these are the weights of the demo, which know drawn shapes, colours and digits "
        "only.",
        examples=[False],
    )
    logit_scale: float = Field(description="Multiplier from cosine to logit.", examples=[100.0])


class ModelsAnswer(BaseModel):
    """A list that holds the served model."""

    object: Literal["list"]
    data: list[Model]


BODIES = (EmbeddingsRequest,)


@router.post(
    "/v1/embeddings",
    summary="Embed texts or images",
    **describe(EmbeddingsAnswer, json=EmbeddingsRequest),
)
async def embeddings(request: Request, caller: Caller) -> Response:
    """Return unit-length embeddings. An invalid input fails the request, and `param` names it."""
    body = await read_json(request, EmbeddingsRequest)
    model = await caller.state.inference.model(caller.deadline)
    check_model(body.model, model, caller.state.settings)
    inputs = body.input if isinstance(body.input, list) else [body.input]
    try:
        with collecting() as collected:
            vectors = await embed(request, caller, [_source(item, body.modality) for item in inputs])
    except TritonClipError as error:
        raise problem_of(error, FIELDS) from error
    if body.dimensions not in (None, 0, len(vectors[0])):
        text = f"dimensions: this model has {len(vectors[0])} and cannot shorten its embeddings; leave it out"
        raise Problem(status=400, message=text, param="dimensions")
    encode = _base64 if body.encoding_format == "base64" else shortest_floats
    content = {
        "object": "list",
        "data": (
            {"object": "embedding", "index": index, "embedding": encode(vector)}
            for index, vector in enumerate(vectors)
        ),
        "model": model.checkpoint,
        "usage": {"prompt_tokens": collected.tokens, "total_tokens": collected.tokens},
        "warnings": collected.warnings + ([] if body.modality else _url_warnings(inputs)),
    }
    return json_answer(content, rows="data", values=sum(map(len, vectors)))


@router.get(
    "/v1/models",
    summary="List the served model",
    response_model=ModelsAnswer,
    responses=_MODEL_ERRORS,
)
async def models(caller: Caller) -> Response:
    """Return a list with one model."""
    model = await caller.state.inference.model(caller.deadline)
    return JSONResponse({"object": "list", "data": [describe_model(model)]})


@router.get(
    "/v1/models/{model:path}",
    summary="Get the served model",
    response_model=Model,
    responses=_MODEL_ERRORS,
)
async def model(model: str, caller: Caller) -> Response:
    """Return the model by its id, the last part of its id, or `clip`."""
    found = await caller.state.inference.model(caller.deadline)
    check_model(model, found, caller.state.settings)
    return JSONResponse(describe_model(found))


def _source(item: str | InputItem, modality: str | None) -> Source | str:
    """Return an input as the image or the text that it is."""
    if isinstance(item, InputItem):
        return item.source
    is_image = modality == "image" or (modality is None and is_image_uri(item))
    return Source(item) if is_image else item


def _url_warnings(inputs: Sequence[str | InputItem]) -> list[str]:
    """Return a warning for each text that is the URL of something, perhaps of an image."""
    return [
        f"text {index} is a URL and was embedded as a text: {shown(item, SHOWN_CHARACTERS)}; "
        'send {"image_url": ...} for the image there'
        for index, item in enumerate(inputs)
        if isinstance(item, str) and is_url(item) and not is_image_uri(item) and " " not in item
    ]


def _base64(vector: Array) -> str:
    return base64.b64encode(vector.astype(np.dtype("<f4")).tobytes()).decode("ascii")
