"""SambaStudio's two calls of its CLIP endpoint, so that its clients need only another address and key."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from tritonclip._records import decimals
from tritonclip.errors import TritonClipError
from tritonclip.gateway import _schemas as schemas
from tritonclip.gateway._bodies import read_form, read_json
from tritonclip.gateway._door import Caller
from tritonclip.gateway._inference import Array
from tritonclip.gateway._openai import embed_images, embed_texts
from tritonclip.gateway._problems import problem_of
from tritonclip.gateway._routing import describe

FIELDS = {"image": "predict_file", "text": "inputs"}
router = APIRouter(tags=["SambaStudio"])


class _NoFields(BaseModel):
    """A form may hold fields that are of no use here; they are passed over."""


@router.post(
    "/api/predict/file/{project}/{endpoint}",
    summary="Embed images",
    **describe(schemas.VectorsAnswer, form=(None, "predict_file")),
)
async def predict_file(project: str, endpoint: str, request: Request, caller: Caller) -> Response:
    """A form with an image in `predict_file`, or several. Project and endpoint may be any names."""
    body = await read_form(request, _NoFields, caller.state.settings, ("predict_file",))
    try:
        return _answer(await embed_images(request, caller, body.images))
    except TritonClipError as error:
        raise problem_of(error, FIELDS) from error


@router.post(
    "/api/predict/nlp/{project}/{endpoint}",
    summary="Embed texts",
    **describe(schemas.VectorsAnswer, json=schemas.NlpRequest),
)
async def predict_nlp(project: str, endpoint: str, request: Request, caller: Caller) -> Response:
    """JSON with a list of texts in `inputs`. Project and endpoint may be any names."""
    body = await read_json(request, schemas.NlpRequest)
    try:
        return _answer(
            await embed_texts(caller, [body.inputs] if isinstance(body.inputs, str) else body.inputs)
        )
    except TritonClipError as error:
        raise problem_of(error, FIELDS) from error


def _answer(vectors: list[Array]) -> Response:
    return JSONResponse({"data": [decimals(vector) for vector in vectors], "status_code": 200})
