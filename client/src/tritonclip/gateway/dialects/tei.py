"""The API of Text Embeddings Inference (TEI), Hugging Face's server, as far as clients of texts need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, RootModel

from tritonclip import __version__
from tritonclip._calls.token_counts import collecting
from tritonclip._messages.text import shortest_floats
from tritonclip.errors import TritonClipError
from tritonclip.gateway._caller import AuthorizedCaller, Caller
from tritonclip.gateway._dialect import Dialect
from tritonclip.gateway._problems import Problem, problem_of
from tritonclip.gateway.dialects._embedding import check_dimensions, check_not_truncated, embed, embed_texts
from tritonclip.gateway.payloads.answers import json_list_answer
from tritonclip.gateway.payloads.bodies import Source, read_json
from tritonclip.gateway.payloads.openapi import describe, describe_errors
from tritonclip.gateway.payloads.schemas import MODEL_EXAMPLE, TEXTS_EXAMPLE, NotBlank, Texts

FIELDS = {"image": "inputs", "text": "inputs", "label": "candidate_labels"}


def error_body(problem: Problem) -> dict[str, Any]:
    """Return an error as TEI sends it, which is also how Hugging Face's inference clients read it."""
    kind = "Validation" if problem.status < 500 else "Backend"
    if problem.status == 429:
        kind = "Overloaded"
    elif problem.status == 503:
        kind = "Unhealthy"
    return {"error": problem.message, "error_type": kind}


DIALECT = Dialect("tei", error_body)
router = APIRouter(tags=["TEI"], dependencies=[DIALECT.mark()])


class EmbedOptions(BaseModel):
    """TEI's options of an embedding. Unknown members are ignored."""

    normalize: bool = Field(
        default=True,
        description="Has no effect: vectors have unit length in either case.",
        examples=[True],
    )
    truncate: bool | None = Field(
        default=None,
        description="With false, a text with more tokens than the model reads is an error. Otherwise its end "
        "is left out.",
        examples=[True],
    )
    truncation_direction: Literal["right", "Right"] = Field(
        default="right", description="The model reads the start of a text.", examples=["right"]
    )
    prompt_name: str | None = Field(
        default=None, description="Must be left out, because CLIP has no prompts.", examples=[None]
    )
    dimensions: int | None = Field(
        default=None, description="Must be the model's own dimension.", examples=[None]
    )


class EmbedRequest(EmbedOptions):
    """TEI's request for embeddings of texts."""

    inputs: Texts | NotBlank = Field(description="One text or several.", examples=[TEXTS_EXAMPLE])


class EmbedAnswer(RootModel[list[list[float]]]):
    """One vector of unit length for each input, also if there is only one."""


class ErrorText(BaseModel):
    """TEI's error: what is wrong, where, and how to fix it."""

    error: str = Field(examples=["inputs: none given; give at least one"])
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation"]


class EmbeddingModel(BaseModel):
    """TEI's description of how a model makes one vector from a text."""

    pooling: Literal["last_token"]


class ModelType(BaseModel):
    """TEI's kind of a model."""

    embedding: EmbeddingModel


class InfoAnswer(BaseModel):
    """TEI's description of the server, without the members that describe TEI's own process."""

    model_id: str = Field(examples=[MODEL_EXAMPLE])
    model_sha: str | None = Field(description="Commit on the Hugging Face Hub; null for local weights.")
    model_dtype: Literal["float32"] = Field(description="Type of the embeddings.")
    model_type: ModelType
    max_concurrent_requests: int = Field(description="Further requests in flight are rejected with 503.")
    max_input_length: int = Field(description="Tokens of a text that the model reads.", examples=[77])
    max_client_batch_size: int = Field(description="Maximum number of texts per request.", examples=[10_000])
    auto_truncate: Literal[True]
    version: str = Field(description="Version of the gateway.", examples=["0.1.0"])


BODIES = (EmbedRequest,)


@router.post("/embed", summary="Embed texts", **describe(EmbedAnswer, json=EmbedRequest, error=ErrorText))
async def embed_inputs(request: Request, caller: Caller) -> Response:
    """Return a vector of unit length for each text, in the order of the texts."""
    body = await read_json(request, EmbedRequest)
    return await answer(request, caller, [body.inputs] if isinstance(body.inputs, str) else body.inputs, body)


@router.post(
    "/embed_all",
    summary="Embed tokens (always refused)",
    status_code=400,
    response_model=ErrorText,
    responses=describe_errors(401, 429, error=ErrorText),
)
async def embed_all(caller: Caller) -> Response:
    """Refuse to embed each token, because CLIP trains one vector for a text and none for its tokens."""
    message = "CLIP has one vector for a text and none for each of its tokens; call /embed"
    raise Problem(status=400, message=message)


@router.get(
    "/info",
    summary="Describe the model and the limits",
    response_model=InfoAnswer,
    responses=describe_errors(400, 401, 429, 500, 503, 504, error=ErrorText),
)
async def info(caller: Caller) -> Response:
    """Return the served model and the limits of a request. This embeds a text to learn the token limit."""
    settings = caller.state.settings
    try:
        model = await caller.state.inference.model(caller.deadline)
        with collecting() as collected:
            await embed_texts(caller, ["a"])
    except TritonClipError as error:
        raise problem(error) from error
    return JSONResponse(
        {
            "model_id": model.checkpoint,
            "model_sha": None if model.revision == "local" else model.revision,
            "model_dtype": "float32",
            "model_type": {"embedding": {"pooling": "last_token"}},
            "max_concurrent_requests": settings.max_requests,
            "max_input_length": collected.token_limit,
            "max_client_batch_size": settings.max_texts,
            "auto_truncate": True,
            "version": __version__,
        }
    )


async def answer(
    request: Request, caller: AuthorizedCaller, inputs: Sequence[Source | str], options: EmbedOptions
) -> Response:
    """Embed the inputs and return the list of their vectors."""
    if options.prompt_name:
        raise Problem(
            status=400, message="prompt_name: CLIP has no prompts; leave it out", param="prompt_name"
        )
    try:
        with collecting() as collected:
            vectors = await embed(request, caller, inputs)
    except TritonClipError as error:
        raise problem(error) from error
    if options.truncate is False:
        check_not_truncated(collected, "inputs", "leave out truncate")
    check_dimensions(vectors, options.dimensions, "dimensions")
    return json_list_answer(map(shortest_floats, vectors), values=sum(map(len, vectors)))


def problem(error: TritonClipError) -> Problem:
    """Convert an error of the client to TEI's error response.

    An overloaded server is status 429, as in TEI, because Hugging Face's JavaScript client repeats a request
    with status 503 at once and without end.
    """
    found = problem_of(error, FIELDS)
    return replace(found, status=429) if found.code == "overloaded" else found
