"""SambaStudio's CLIP endpoint, so that its clients only need another address and key."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from tritonclip._messages.text import shortest_floats
from tritonclip.errors import TritonClipError
from tritonclip.gateway._caller import Caller
from tritonclip.gateway._dialect import Dialect
from tritonclip.gateway._inference import Array
from tritonclip.gateway._problems import problem_of
from tritonclip.gateway.dialects._embedding import embed_images, embed_texts
from tritonclip.gateway.payloads.answers import json_answer
from tritonclip.gateway.payloads.bodies import read_form, read_json
from tritonclip.gateway.payloads.openapi import describe
from tritonclip.gateway.payloads.schemas import NotBlank, Texts

FIELDS = {"image": "predict_file", "text": "inputs"}
DIALECT = Dialect("sambastudio")
router = APIRouter(tags=["SambaStudio"], dependencies=[DIALECT.mark()])


class NlpRequest(BaseModel):
    """SambaStudio's request for texts. Unknown members are ignored."""

    inputs: Texts | NotBlank = Field(description="One text or several.", examples=[["a red circle"]])


class VectorsAnswer(BaseModel):
    """SambaStudio's response, with one unit-length vector per input."""

    data: list[list[float]] = Field(examples=[[[0.012, -0.034]]])
    status_code: Literal[200]


class _OtherFields(BaseModel):
    """Form fields other than images, all of which are ignored."""


BODIES = (NlpRequest,)


@router.post(
    "/api/predict/file/{project}/{endpoint}",
    summary="Embed images",
    **describe(VectorsAnswer, form=(None, "predict_file")),
)
async def predict_file(project: str, endpoint: str, request: Request, caller: Caller) -> Response:
    """Embed the images of the form field `predict_file`. Any project and endpoint names are accepted."""
    body = await read_form(request, _OtherFields, caller.state.settings, ("predict_file",))
    try:
        return _answer(await embed_images(request, caller, body.images))
    except TritonClipError as error:
        raise problem_of(error, FIELDS) from error


@router.post(
    "/api/predict/nlp/{project}/{endpoint}",
    summary="Embed texts",
    **describe(VectorsAnswer, json=NlpRequest),
)
async def predict_nlp(project: str, endpoint: str, request: Request, caller: Caller) -> Response:
    """Embed the texts of the JSON member `inputs`. Any project and endpoint names are accepted."""
    body = await read_json(request, NlpRequest)
    try:
        return _answer(
            await embed_texts(caller, [body.inputs] if isinstance(body.inputs, str) else body.inputs)
        )
    except TritonClipError as error:
        raise problem_of(error, FIELDS) from error


def _answer(vectors: list[Array]) -> Response:
    content = {"data": map(shortest_floats, vectors), "status_code": 200}
    return json_answer(content, rows="data", values=sum(map(len, vectors)))
