"""OpenAI's API as far as CLIP supports it: embeddings of texts and images, and the list of models."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from tritonclip._calls.token_counts import collecting
from tritonclip.errors import TritonClipError
from tritonclip.gateway._caller import AuthorizedCaller, Caller
from tritonclip.gateway._dialect import Dialect
from tritonclip.gateway._models import check_model, describe_model
from tritonclip.gateway._problems import Problem, problem_of
from tritonclip.gateway.dialects._embedding import check_dimensions, embed
from tritonclip.gateway.dialects._inputs import (
    Element,
    Input,
    Message,
    Modality,
    elements_of,
    sources_of,
    url_warnings,
)
from tritonclip.gateway.payloads.answers import json_answer
from tritonclip.gateway.payloads.bodies import read_json
from tritonclip.gateway.payloads.encodings import Encoding, encode
from tritonclip.gateway.payloads.openapi import describe, describe_errors
from tritonclip.gateway.payloads.schemas import MODEL_EXAMPLE, TEXTS_EXAMPLE, Warnings

_MODEL_ERRORS = describe_errors(400, 401, 404, 429, 500, 503, 504)
DIALECT = Dialect("openai", lambda problem: {**problem.body, "detail": problem.message})  # detail: Jina's
router = APIRouter(tags=["OpenAI"], dependencies=[DIALECT.mark()])


class EmbeddingsRequest(BaseModel):
    """OpenAI's request, extended for images. Unknown members are ignored."""

    input: Input | None = Field(
        default=None,
        description="Texts and images. Without `modality`, a string is an image if it begins with "
        "`data:image/`, and otherwise a text. An object or a content part says itself what it is. Each "
        "element has one embedding.",
        examples=[TEXTS_EXAMPLE],
    )
    messages: list[Message] | None = Field(
        default=None,
        description="One chat message with one text or one image instead of `input`, as vLLM's clients send "
        "it.",
        json_schema_extra={"minItems": 1, "maxItems": 1},
        examples=[[{"role": "user", "content": "a red circle"}]],
    )
    model: str | None = Field(
        default=None,
        description="The model's id from /v1/models, the last part of that id, or `clip`.",
        examples=["clip"],
    )
    modality: Modality | None = Field(
        default=None,
        description="Type of all strings of the input. With `image` they are data: URIs, base64 or http(s) "
        "URLs.",
        examples=["text"],
    )
    encoding_format: Encoding = Field(
        default="float",
        description="Numbers; base64 of little-endian float32; bytes scaled to the largest value; or packed "
        "bits.",
        examples=["float"],
    )
    embedding_type: Encoding | None = Field(
        default=None,
        description="Takes precedence over `encoding_format`. Jina's clients send it.",
        examples=["float"],
    )
    encoding_type: Encoding | None = Field(
        default=None, description="As `embedding_type`. LlamaIndex sends it to Jina.", examples=["float"]
    )
    output_dtype: Encoding | None = Field(
        default=None,
        description="Takes precedence over all of these, unless it is `float`. Voyage's clients send it.",
        examples=[None],
    )
    dimensions: int | None = Field(
        default=None,
        description="Must be the model's own dimension, because CLIP embeddings cannot be shortened.",
        examples=[512],
    )

    @property
    def encoding(self) -> Encoding:
        """The form in which embeddings are returned."""
        if self.output_dtype not in (None, "float"):
            return self.output_dtype
        return self.embedding_type or self.encoding_type or self.encoding_format

    def read(self) -> tuple[str, list[Element]]:
        """Return the name of the member that holds the inputs, and these.

        Raises:
            Problem: 400 unless there is either `input`, or one message.
        """
        if self.messages is None:
            if self.input is None:
                raise Problem(status=400, message="input: the field is required", param="input")
            return "input", elements_of(self.input)
        if self.input is not None or len(self.messages) != 1:
            text = (
                "messages: give one message with one text or one image, and no input; use input for several"
            )
            raise Problem(status=400, message=text, param="messages")
        return "messages", [self.messages[0].content]


class Embedding(BaseModel):
    """An embedding of unit length."""

    object: Literal["embedding"]
    index: int = Field(examples=[0])
    embedding: list[float] | list[int] | str = Field(
        description="Numbers, or base64.", examples=[[0.012, -0.034]]
    )


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
    return await answer(request, caller, await read_json(request, EmbeddingsRequest))


async def answer(request: Request, caller: AuthorizedCaller, body: EmbeddingsRequest) -> Response:
    """Return the embeddings that a request asks for.

    Raises:
        Problem: If the model is unknown, or an input is invalid.
    """
    model = await caller.state.inference.model(caller.deadline)
    check_model(body.model, model, caller.state.settings)
    field, elements = body.read()
    try:
        with collecting() as collected:
            vectors = await embed(
                request, caller, sources_of(elements, body.modality, caller.state.decode_tokens)
            )
    except TritonClipError as error:
        raise problem_of(error, {"image": field, "text": field}) from error
    check_dimensions(vectors, body.dimensions, "dimensions")
    content = {
        "object": "list",
        "data": (
            {"object": "embedding", "index": index, "embedding": encode(vector, body.encoding)}
            for index, vector in enumerate(vectors)
        ),
        "model": model.checkpoint,
        "usage": {"prompt_tokens": collected.tokens, "total_tokens": collected.tokens},
        "warnings": collected.warnings + ([] if body.modality else url_warnings(elements)),
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
