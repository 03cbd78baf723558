"""OpenAI's API, as far as CLIP has it: embeddings of texts and of images, the list of models."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from tritonclip._calls.checks import check_texts
from tritonclip._calls.token_counts import collecting
from tritonclip._records import decimals
from tritonclip._types import ModelInfo
from tritonclip.errors import TritonClipError
from tritonclip.gateway import _schemas as schemas
from tritonclip.gateway._bodies import Source, check_count, image_files, read_json
from tritonclip.gateway._door import Admitted, Caller
from tritonclip.gateway._inference import Array
from tritonclip.gateway._observe import count_images
from tritonclip.gateway._problems import Problem, problem_of
from tritonclip.gateway._routing import ERRORS, describe

ALIAS = "clip"
FIELDS = {"image": "input", "text": "input"}
_MODEL_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorAnswer, **ERRORS[status]} for status in (400, 401, 404, 429, 500, 503, 504)
}
router = APIRouter(tags=["OpenAI"])


@router.post(
    "/v1/embeddings",
    summary="Embed texts or images",
    **describe(schemas.EmbeddingsAnswer, json=schemas.EmbeddingsRequest),
)
async def embeddings(request: Request, caller: Caller) -> Response:
    """As OpenAI's; vectors of unit length. An input that is wrong refuses the request; `param` names it."""
    body = await read_json(request, schemas.EmbeddingsRequest)
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
        few = f"this model has {len(vectors[0])} dimensions, and its vectors cannot be cut"
        raise Problem(status=400, message=f"dimensions: {few}; leave it out", param="dimensions")
    tokens = sum(count.tokens for count in counts)
    encode = _base64 if body.encoding_format == "base64" else decimals
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
    summary="The model that is served",
    response_model=schemas.ModelsAnswer,
    responses=_MODEL_ERRORS,
)
async def models(caller: Caller) -> Response:
    """A list of one."""
    model = await caller.state.inference.model(caller.deadline)
    return JSONResponse({"object": "list", "data": [_describe(model)]})


@router.get(
    "/v1/models/{model:path}",
    summary="The same by its name",
    response_model=schemas.Model,
    responses=_MODEL_ERRORS,
)
async def model(model: str, caller: Caller) -> Response:
    """By its id, the last part of it, or clip."""
    found = await caller.state.inference.model(caller.deadline)
    _check_model(model, found)
    return JSONResponse(_describe(found))


async def embed_images(request: Request, caller: Admitted, sources: list[Source]) -> list[Array]:
    """Embed images, all or none: float32 [d] each; raises the first error."""
    state = caller.state
    files = await image_files(sources, state.settings, state.urls, timeout_s=caller.deadline.left_s)
    wrong = next((file for file in files if isinstance(file, TritonClipError)), None)
    answers = [wrong] if wrong else await state.inference.embed_images(files, caller.deadline)
    wrong = next((answer for answer in answers if isinstance(answer, TritonClipError)), None)
    count_images(request, state.metrics, 0 if wrong else len(files), len(files) if wrong else 0)
    if wrong:
        raise wrong
    return [answer for answer in answers if not isinstance(answer, TritonClipError)]


async def embed_texts(caller: Admitted, inputs: list[str]) -> list[Array]:
    """Embed texts: float32 [d] each."""
    texts, _ = check_texts(inputs)
    check_count("texts", len(texts), caller.state.settings.max_texts)
    caller.state.metrics.texts.inc(len(texts))
    return list(await caller.state.inference.embed_texts(texts, caller.deadline))


def _check_model(name: str | None, model: ModelInfo) -> None:
    known = model.checkpoint, model.checkpoint.rpartition("/")[2], ALIAS
    if name is not None and name not in known:
        text = f"there is no model {name[:100]!r} here; ask for {model.checkpoint!r}"
        raise Problem(status=404, code="model_not_found", message=text, param="model")


def _describe(model: ModelInfo) -> dict[str, Any]:
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
