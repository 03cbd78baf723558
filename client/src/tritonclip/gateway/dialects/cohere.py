"""Cohere's embedding API, versions 1 and 2, so that its clients only need another address and key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from asgi_correlation_id import correlation_id
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, RootModel

from tritonclip._calls.token_counts import Collected, collecting
from tritonclip.errors import TritonClipError
from tritonclip.gateway._caller import AuthorizedCaller, Caller
from tritonclip.gateway._dialect import Dialect
from tritonclip.gateway._inference import Array
from tritonclip.gateway._models import check_model
from tritonclip.gateway._problems import Problem, problem_of
from tritonclip.gateway.dialects._embedding import check_dimensions, check_not_truncated, embed
from tritonclip.gateway.dialects._inputs import Parts, sources_of
from tritonclip.gateway.payloads.answers import json_answer
from tritonclip.gateway.payloads.bodies import Source, read_json
from tritonclip.gateway.payloads.encodings import Encoding, encode
from tritonclip.gateway.payloads.openapi import describe
from tritonclip.gateway.payloads.schemas import TEXTS_EXAMPLE, NotBlank, Texts


def _error_body(problem: Problem) -> dict[str, Any]:
    return {"id": correlation_id.get(), "message": problem.message}


DIALECT = Dialect("cohere", _error_body)
router = APIRouter(tags=["Cohere"], dependencies=[DIALECT.mark()])


class CohereInput(BaseModel):
    """An input of version 2. Unknown members are ignored."""

    content: Parts = Field(
        description="One text or one image.", examples=[[{"type": "text", "text": TEXTS_EXAMPLE[0]}]]
    )


class CohereRequest(BaseModel):
    """Cohere's request, with exactly one of `texts`, `images` and `inputs`. Unknown members are ignored."""

    texts: Texts | None = Field(default=None, description="Texts.", examples=[TEXTS_EXAMPLE])
    images: list[NotBlank] | None = Field(
        default=None,
        description="Images as data: URIs, base64, or http(s) URLs.",
        json_schema_extra={"minItems": 1},
        examples=[None],
    )
    inputs: list[CohereInput] | None = Field(
        default=None,
        description="Texts and images, each with one embedding.",
        json_schema_extra={"minItems": 1},
        examples=[None],
    )
    model: str | None = Field(
        default=None,
        description="The model's id from /v1/models, the last part of that id, `clip`, or an alias.",
        examples=["clip"],
    )
    embedding_types: list[Encoding] | None = Field(
        default=None,
        description="Forms in which each embedding is returned. Default: `float`; in version 1 without the "
        "name of the form.",
        examples=[["float", "int8"]],
    )
    truncate: Literal["NONE", "START", "END"] = Field(
        default="END",
        description="With `NONE` or `START`, a text with more tokens than the model reads is an error. With "
        "`END`, its end is left out.",
        examples=["END"],
    )
    max_tokens: int | None = Field(
        default=None, description="Must not be less than the tokens that the model reads.", examples=[None]
    )
    output_dimension: int | None = Field(
        default=None, description="Must be the model's own dimension.", examples=[None]
    )

    def read(self) -> tuple[str, list[Source | str]]:
        """Return the name of the member that holds the inputs, and these.

        Raises:
            Problem: 400 unless exactly one member holds inputs.
            InvalidInputError: If an input has several content parts.
        """
        given = [name for name in ("texts", "images", "inputs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise Problem(status=400, message="give exactly one of texts, images and inputs")
        if self.texts is not None:
            return "texts", [*self.texts]
        if self.images is not None:
            return "images", [Source(image) for image in self.images]
        return "inputs", sources_of([item.content for item in self.inputs or []])


class CohereApiVersion(BaseModel):
    """Version of Cohere's API."""

    version: Literal["1", "2"]


class CohereUnits(BaseModel):
    """Size of the request. Tokens are counted before truncation."""

    input_tokens: int = Field(examples=[10])
    images: int = Field(examples=[0])


class CohereMeta(BaseModel):
    """Version, size, and warnings about texts that were truncated."""

    api_version: CohereApiVersion
    billed_units: CohereUnits
    warnings: list[str] | None = None


class _CohereAnswer(BaseModel):
    id: str | None = Field(description="The same as `X-Request-ID`.")
    texts: list[str] = Field(description="The texts of the request.", examples=[TEXTS_EXAMPLE])
    meta: CohereMeta


class CohereTypesAnswer(_CohereAnswer):
    """Embeddings of unit length, and what remains of them in the other forms."""

    response_type: Literal["embeddings_by_type"]
    embeddings: dict[Encoding, list[list[float] | list[int] | str]] = Field(
        examples=[{"float": [[0.012, -0.034]]}]
    )


class CohereFloatsAnswer(_CohereAnswer):
    """Embeddings of unit length, as version 1 returns them without `embedding_types`."""

    response_type: Literal["embeddings_floats"]
    embeddings: list[list[float]] = Field(examples=[[[0.012, -0.034]]])


class CohereV1Answer(RootModel[CohereFloatsAnswer | CohereTypesAnswer]):
    """An answer of version 1."""


class CohereError(BaseModel):
    """Cohere's error: what is wrong, where, and how to fix it."""

    id: str | None = Field(description="The same as `X-Request-ID`.")
    message: str = Field(examples=["give exactly one of texts, images and inputs"])


BODIES = (CohereRequest,)


@router.post(
    "/v2/embed",
    summary="Embed texts and images",
    **describe(CohereTypesAnswer, json=CohereRequest, error=CohereError),
)
async def embed_v2(request: Request, caller: Caller) -> Response:
    """Return embeddings in each form of `embedding_types`. `input_type` has no effect."""
    body = await read_json(request, CohereRequest)
    return await _answer(request, caller, body, "2", body.embedding_types or ["float"])


@router.post(
    "/v1/embed",
    summary="Embed texts or images",
    **describe(CohereV1Answer, json=CohereRequest, error=CohereError),
)
async def embed_v1(request: Request, caller: Caller) -> Response:
    """Return embeddings as numbers, or in each form of `embedding_types`. `input_type` has no effect."""
    body = await read_json(request, CohereRequest)
    return await _answer(request, caller, body, "1", body.embedding_types)


async def _answer(
    request: Request,
    caller: AuthorizedCaller,
    body: CohereRequest,
    version: Literal["1", "2"],
    encodings: list[Encoding] | None,
) -> Response:
    check_model(body.model, await caller.state.inference.model(caller.deadline), caller.state.settings)
    field = "inputs"
    try:
        field, inputs = body.read()
        with collecting() as collected:
            vectors = await embed(request, caller, inputs)
    except TritonClipError as error:
        raise problem_of(error, {"image": field, "text": field}) from error
    _check_options(body, field, vectors, collected)
    texts = [item for item in inputs if isinstance(item, str)]
    meta: dict[str, Any] = {
        "api_version": {"version": version},
        "billed_units": {"input_tokens": collected.tokens, "images": len(inputs) - len(texts)},
    }
    if collected.warnings:
        meta["warnings"] = collected.warnings
    content: dict[str, Any] = {"id": correlation_id.get(), "texts": texts, "meta": meta}
    if encodings is None:
        content["response_type"] = "embeddings_floats"
        content["embeddings"] = (encode(vector, "float") for vector in vectors)
    else:
        content["response_type"] = "embeddings_by_type"
        content["embeddings"] = {name: _encoded(vectors, name) for name in dict.fromkeys(encodings)}
    values = sum(map(len, vectors)) * len(encodings or [""])
    return json_answer(content, rows="embeddings", values=values)


def _encoded(vectors: list[Array], encoding: Encoding) -> Iterator[list[float] | list[int] | str]:
    return (encode(vector, encoding) for vector in vectors)


def _check_options(body: CohereRequest, field: str, vectors: list[Array], collected: Collected) -> None:
    """Check the options that CLIP cannot follow.

    Raises:
        Problem: 400 for an option that would change the embeddings.
    """
    check_dimensions(vectors, body.output_dimension, "output_dimension")
    if body.truncate != "END":
        check_not_truncated(collected, field, "send truncate END")
    limit = collected.token_limit
    if limit and body.max_tokens is not None and body.max_tokens < limit:
        message = (
            f"max_tokens: this model reads {limit} tokens of a text, and cannot read fewer; leave it out"
        )
        raise Problem(status=400, message=message, param="max_tokens", limit=limit)
