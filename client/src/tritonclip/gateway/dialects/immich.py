"""The API of Immich's machine learning container, as far as its smart search needs it.

Face recognition and text recognition (OCR) are refused, because CLIP does neither.

Source: machine-learning/ and server/src/repositories/machine-learning.repository.ts in immich-app/immich.
"""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tritonclip._messages.text import shortest_floats, shown
from tritonclip.errors import InvalidInputError, TritonClipError
from tritonclip.gateway._caller import AuthorizedCaller, Caller
from tritonclip.gateway._dialect import Dialect
from tritonclip.gateway._inference import Array
from tritonclip.gateway._models import check_model
from tritonclip.gateway._problems import Problem, problem_of
from tritonclip.gateway._status import reason_unready
from tritonclip.gateway.dialects._embedding import embed_images, embed_texts
from tritonclip.gateway.payloads.bodies import Body, Source, read_form
from tritonclip.gateway.payloads.openapi import describe, describe_errors
from tritonclip.gateway.payloads.schemas import NotBlank

FIELDS = {"image": "image", "text": "text"}
TASK = "clip"


def _error_body(problem: Problem) -> dict[str, Any]:
    return {"detail": problem.message}


DIALECT = Dialect("immich", _error_body)
router = APIRouter(tags=["Immich"], dependencies=[DIALECT.mark()])


class ImmichError(BaseModel):
    """Immich's error: what is wrong, where, and how to fix it."""

    detail: str = Field(examples=["image 0: cannot identify the image format"])


class _Model(BaseModel):
    name: str = Field(alias="modelName")


class _Clip(BaseModel):
    visual: _Model | None = None
    textual: _Model | None = None


class _Entries(BaseModel):
    model_config = ConfigDict(extra="allow")

    clip: _Clip = _Clip()


class PredictFields(BaseModel):
    """Immich's fields next to the file `image`. Give a text or an image. Unknown fields are ignored."""

    entries: NotBlank = Field(
        description="JSON with the part of the model and its name: its id from /v1/models, the last part of "
        "that id, `clip`, or an alias.",
        examples=['{"clip": {"textual": {"modelName": "clip"}}}'],
    )
    text: str | None = Field(default=None, description="A text for `textual`.", examples=["a red circle"])


class PredictAnswer(BaseModel):
    """An embedding of unit length, and for an image its size as far as the gateway can read it."""

    clip: str = Field(description="JSON array of the numbers.", examples=["[0.012,-0.034]"])
    image_height: int | None = Field(default=None, alias="imageHeight", examples=[480])
    image_width: int | None = Field(default=None, alias="imageWidth", examples=[640])


BODIES = ()


@router.get(
    "/ping",
    summary="Check readiness, as of Immich's container",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "`pong`."},
        **describe_errors(400, 401, 429, 503, error=ImmichError),
    },
)
async def ping(caller: Caller) -> Response:
    """Return `pong` if the gateway is ready, as /readyz tells. Immich asks at intervals."""
    if reason := await reason_unready(caller.state, await caller.state.readiness.health()):
        raise Problem(status=503, message=reason)
    return PlainTextResponse("pong")


@router.post(
    "/predict",
    summary="Embed a text or an image",
    **describe(PredictAnswer, form=(PredictFields, "image"), image_required=False, error=ImmichError),
)
async def predict(request: Request, caller: Caller) -> Response:
    """Return the embedding of the form's file `image`, or of its field `text`."""
    body = await read_form(request, PredictFields, caller.state.settings, ("image",))
    part, name = _requested(body.fields.entries)
    check_model(name, await caller.state.inference.model(caller.deadline), caller.state.settings)
    try:
        if part == "textual":
            if body.fields.text is None:
                raise InvalidInputError("text: none given; give one for textual")
            (vector,) = await embed_texts(caller, [body.fields.text])
            return JSONResponse({TASK: _text_of(vector)})
        return await _image_answer(request, caller, body)
    except TritonClipError as error:
        raise problem_of(error, FIELDS) from error


async def _image_answer(request: Request, caller: AuthorizedCaller, body: Body[PredictFields]) -> Response:
    if len(body.images) != 1:
        raise InvalidInputError(f"image: expected one file for visual, got {len(body.images)}")
    (vector,) = await embed_images(request, caller, body.images)
    height, width = await asyncio.to_thread(_size, body.images[0])
    return JSONResponse({TASK: _text_of(vector), "imageHeight": height, "imageWidth": width})


def _requested(entries: str) -> tuple[Literal["visual", "textual"], str]:
    """Return the part of the model that a request asks for, and the model's name.

    Raises:
        Problem: 400 if it asks for another task than CLIP, or not for one part.
    """
    expected = 'expected {"clip": {"visual": {"modelName": NAME}}} for an image, textual for a text'
    try:
        found = _Entries.model_validate_json(entries)
    except ValidationError as error:
        raise Problem(status=400, message=f"entries: {expected}", param="entries") from error
    if found.model_extra:
        raise Problem(
            status=400,
            message=f"entries: {shown(next(iter(found.model_extra)))} is not served here, only 'clip'; "
            "switch it off in Immich's machine learning settings",
            param="entries",
        )
    if found.clip.visual and not found.clip.textual:
        return "visual", found.clip.visual.name
    if found.clip.textual and not found.clip.visual:
        return "textual", found.clip.textual.name
    raise Problem(status=400, message=f"entries: {expected}", param="entries")


def _text_of(vector: Array) -> str:
    return json.dumps(shortest_floats(vector), separators=(",", ":"))


def _size(source: Source) -> tuple[int | None, int | None]:
    """Return the height and width in an image's header; None for both if Pillow cannot read it here."""
    if isinstance(source.content, str):
        return None, None
    try:
        with Image.open(io.BytesIO(source.content)) as image:
            return image.height, image.width
    except Exception:  # Pillow raises nearly anything
        return None, None
