"""The API of Weaviate's inference container for CLIP, which its module `multi2vec-clip` calls.

Source: modules/multi2vec-clip/clients in weaviate/weaviate, and app.py in weaviate/multi2vec-clip-inference.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from tritonclip import __version__
from tritonclip._messages.text import shortest_floats
from tritonclip.errors import TritonClipError
from tritonclip.gateway._caller import Caller
from tritonclip.gateway._dialect import Dialect
from tritonclip.gateway._problems import Problem, problem_of
from tritonclip.gateway._status import reason_unready
from tritonclip.gateway.dialects._embedding import embed_images, embed_texts
from tritonclip.gateway.payloads.answers import json_answer
from tritonclip.gateway.payloads.bodies import Source, read_json
from tritonclip.gateway.payloads.openapi import describe, describe_errors
from tritonclip.gateway.payloads.schemas import MODEL_EXAMPLE, PIXEL, TEXTS_EXAMPLE, NotBlank


def _error_body(problem: Problem) -> dict[str, Any]:
    return {"error": problem.message}


DIALECT = Dialect("weaviate", _error_body)
router = APIRouter(tags=["Weaviate"], dependencies=[DIALECT.mark()])


class WeaviateError(BaseModel):
    """Weaviate's error, which its callers see: what is wrong, where, and how to fix it."""

    error: str = Field(examples=["image 0: cannot identify the image format"])


class VectorizeRequest(BaseModel):
    """Weaviate's request, with at least one text or image. Unknown members are ignored."""

    texts: list[NotBlank] = Field(default=[], description="Texts.", examples=[TEXTS_EXAMPLE], fail_fast=True)
    images: list[NotBlank] = Field(
        default=[], description="Images as base64, data: URIs or URLs.", examples=[[PIXEL]], fail_fast=True
    )


class VectorizeAnswer(BaseModel):
    """A vector of unit length for each text and each image."""

    text_vectors: list[list[float]] = Field(alias="textVectors", examples=[[[0.012, -0.034]]])
    image_vectors: list[list[float]] = Field(alias="imageVectors", examples=[[[0.012, -0.034]]])


class MetaAnswer(BaseModel):
    """The served model, which Weaviate shows among its modules at /v1/meta."""

    model: str = Field(examples=[MODEL_EXAMPLE])
    revision: str = Field(examples=["local"])
    version: str = Field(description="Version of the gateway.", examples=["0.1.0"])


BODIES = (VectorizeRequest,)
_STATE: dict[str, Any] = {
    "status_code": 204,
    "response_class": Response,
    "responses": describe_errors(400, 401, 429, 503, error=WeaviateError),
}


@router.get("/.well-known/live", summary="Check liveness, as of Weaviate's container", **_STATE)
async def live(caller: Caller) -> Response:
    """Return 204 while the gateway runs, without asking Triton."""
    return Response(status_code=204)


@router.get("/.well-known/ready", summary="Check readiness, as of Weaviate's container", **_STATE)
async def ready(caller: Caller) -> Response:
    """Return 204 if the gateway is ready, as /readyz tells. Weaviate waits for it when it starts."""
    if reason := await reason_unready(caller.state, await caller.state.readiness.health()):
        raise Problem(status=503, message=reason)
    return Response(status_code=204)


@router.get(
    "/meta",
    summary="Describe the model",
    response_model=MetaAnswer,
    responses=describe_errors(400, 401, 429, 500, 503, 504, error=WeaviateError),
)
async def meta(caller: Caller) -> Response:
    """Return the served model."""
    model = await caller.state.inference.model(caller.deadline)
    return JSONResponse({"model": model.checkpoint, "revision": model.revision, "version": __version__})


@router.post(
    "/vectorize",
    summary="Embed texts and images",
    **describe(VectorizeAnswer, json=VectorizeRequest, error=WeaviateError),
)
async def vectorize(request: Request, caller: Caller) -> Response:
    """Return the vectors of the texts and those of the images, each in the order of the request."""
    body = await read_json(request, VectorizeRequest)
    if not body.texts and not body.images:
        raise Problem(status=400, message="texts, images: none given; give at least one of either")
    sources = [Source(image) for image in body.images]
    try:
        texts = await embed_texts(caller, body.texts) if body.texts else []
        images = await embed_images(request, caller, sources) if sources else []
    except TritonClipError as error:
        raise problem_of(error) from error
    vectors = {"textVectors": texts, "imageVectors": images}
    longer, shorter = sorted(vectors, key=lambda name: len(vectors[name]), reverse=True)
    content = {
        longer: map(shortest_floats, vectors[longer]),
        shorter: list(map(shortest_floats, vectors[shorter])),
    }
    return json_answer(content, rows=longer, values=sum(map(len, texts + images)))
