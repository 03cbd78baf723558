"""OpenAI's API as far as CLIP supports it: embeddings of texts and images, and the list of models."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from tritonclip._calls.token_counts import collecting
from tritonclip._text import shortest_floats
from tritonclip._types import ModelInfo
from tritonclip.errors import TritonClipError
from tritonclip.gateway._caller import Caller
from tritonclip.gateway._inference import Array
from tritonclip.gateway._problems import Problem, problem_of
from tritonclip.gateway.dialects._embedding import embed_images, embed_texts
from tritonclip.gateway.payloads.bodies import Source, read_json
from tritonclip.gateway.payloads.openapi import describe, describe_errors
from tritonclip.gateway.payloads.schemas import MODEL_EXAMPLE, TEXTS_EXAMPLE, NotBlank, Texts, Warnings

ALIAS = "clip"
FIELDS = {"image": "input", "text": "input"}
_MODEL_ERRORS = describe_errors(400, 401, 404, 429, 500, 503, 504)
router = APIRouter(tags=["OpenAI"])


class EmbeddingsRequest(BaseModel):
    """OpenAI's request, extended with `modality` for images. Unknown members are ignored."""

    input: Texts | NotBlank = Field(
        description="Texts. With modality `image`: data: URIs, base64 or http(s) URLs.",
        examples=[TEXTS_EXAMPLE],
    )
    model: str | None = Field(
        default=None,
        description="The model's id from /v1/models, the last part of that id, or `clip`.",
        examples=["clip"],
    )
    modality: Literal["text", "image"] = Field(
        default="text", description="Type of the inputs.", examples=["text"]
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
    """The served weights. Embeddings are comparable if their models have the same `sha256`."""

    id: str = Field(examples=[MODEL_EXAMPLE])
    object: Literal["model"]
    created: int = Field(description="Always 0, because the date is unknown.", examples=[0])
    owned_by: str = Field(examples=["tritonclip"])
    revision: str = Field(description="Commit on the Hugging Face Hub, or `local`.", examples=["local"])
    sha256: str = Field(description="SHA-256 checksum of the weights.")
    random_weights: bool = Field(
        description="True if the weights are random numbers for load tests.", examples=[False]
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
    _check_model(body.model, model)
    inputs = [body.input] if isinstance(body.input, str) else body.input
    try:
        with collecting() as counts:
            if body.modality == "image":
                vectors = await embed_images(request, caller, [Source(text) for text in inputs])
            else:
                vectors = await embed_texts(caller, inputs)
    except TritonClipError as error:
        raise problem_of(error, FIELDS) from error
    if body.dimensions not in (None, 0, len(vectors[0])):
        text = f"dimensions: this model has {len(vectors[0])} and cannot shorten its embeddings; leave it out"
        raise Problem(status=400, message=text, param="dimensions")
    tokens = sum(count.tokens for count in counts)
    encode = _base64 if body.encoding_format == "base64" else shortest_floats
    return JSONResponse(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": encode(vector)}
                for index, vector in enumerate(vectors)
            ],
            "model": model.checkpoint,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "warnings": [count.warning for count in counts if count.warning],
        }
    )


@router.get(
    "/v1/models",
    summary="List the served model",
    response_model=ModelsAnswer,
    responses=_MODEL_ERRORS,
)
async def models(caller: Caller) -> Response:
    """Return a list with one model."""
    model = await caller.state.inference.model(caller.deadline)
    return JSONResponse({"object": "list", "data": [_describe_model(model)]})


@router.get(
    "/v1/models/{model:path}",
    summary="Get the served model",
    response_model=Model,
    responses=_MODEL_ERRORS,
)
async def model(model: str, caller: Caller) -> Response:
    """Return the model by its id, the last part of its id, or `clip`."""
    found = await caller.state.inference.model(caller.deadline)
    _check_model(model, found)
    return JSONResponse(_describe_model(found))


def _check_model(name: str | None, model: ModelInfo) -> None:
    known = model.checkpoint, model.checkpoint.rpartition("/")[2], ALIAS
    if name is not None and name not in known:
        text = f"the model {name[:100]!r} does not exist; use {model.checkpoint!r}"
        raise Problem(status=404, code="model_not_found", message=text, param="model")


def _describe_model(model: ModelInfo) -> dict[str, Any]:
    return {
        "id": model.checkpoint,
        "object": "model",
        "created": 0,
        "owned_by": "tritonclip",
        "revision": model.revision,
        "sha256": model.sha256,
        "random_weights": model.random_weights,
        "logit_scale": model.logit_scale,
    }


def _base64(vector: Array) -> str:
    return base64.b64encode(vector.astype(np.dtype("<f4")).tobytes()).decode("ascii")
