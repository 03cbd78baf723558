"""Search in the operator's index: the API, its web page, and thumbnails of the images found.

A thumbnail is requested by the id of an index entry, so callers neither send nor see paths on the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, Field

from tritonclip._calls.token_counts import collecting
from tritonclip.errors import (
    DeadlineExceededError,
    InvalidInputError,
    ModelNotReadyError,
    ServerUnavailableError,
    TritonClipError,
)
from tritonclip.gateway._caller import AuthorizedCaller, Caller
from tritonclip.gateway._dialect import Dialect
from tritonclip.gateway._pages import WEB
from tritonclip.gateway._problems import Problem
from tritonclip.gateway._state import State, state_of
from tritonclip.gateway.dialects._embedding import embed_images, embed_texts
from tritonclip.gateway.payloads.bodies import Source, is_form, read_form, read_json
from tritonclip.gateway.payloads.openapi import describe, describe_errors
from tritonclip.gateway.payloads.schemas import MODEL_EXAMPLE, PIXEL, NotBlank, StrictRequest, Warnings

if TYPE_CHECKING:
    from tritonclip._types import ModelInfo
    from tritonclip.search import Entry, SearchIndex

T = TypeVar("T")
KINDS: dict[str, Any] = {"images": "image", "texts": "text", "all": None}
CONCURRENT_THUMBNAILS = 4
NO_INDEX = "this gateway serves no index; its operator can set one with --index"
_thumbnail_slots = asyncio.Semaphore(CONCURRENT_THUMBNAILS)
DIALECT = Dialect("search")
router = APIRouter(tags=["search"], dependencies=[DIALECT.mark()])


class SearchFields(StrictRequest):
    """The query text, and which entries to search."""

    text: NotBlank | None = Field(
        default=None,
        description="Description of the images to find, embedded without a template.",
        examples=["a red circle"],
    )
    top_k: int = Field(default=20, ge=1, le=100, description="Maximum number of results.", examples=[5])
    of: Literal["images", "texts", "all"] = Field(
        default="images", description="Kind of entries to search.", examples=["images"]
    )


class SearchRequest(SearchFields):
    """A text or an image to search for."""

    image: NotBlank | None = Field(
        default=None,
        description="Query image instead of a text, as base64 of an encoded file, as a data: URI, or as an "
        "http(s) URL if the operator allows URLs.",
        examples=[PIXEL],
    )


class Found(BaseModel):
    """An entry of the index."""

    id: str = Field(
        description="Id of the entry, for its thumbnail.", examples=["d5235e0db774fe4abf09ec64b45be170"]
    )
    kind: Literal["image", "text"]
    name: str = Field(
        description="Path relative to the indexed directory, or the text.", examples=["a/circle.jpg"]
    )
    score: float | None = Field(description="Cosine with the query; null without one.", examples=[0.31])


class SearchAnswer(BaseModel):
    """Search results, best first."""

    model: str = Field(examples=[MODEL_EXAMPLE])
    entries: int = Field(description="Number of entries in the index.", examples=[2000])
    results: list[Found]
    warnings: Warnings


BODIES = (SearchRequest,)


@router.get("/search", include_in_schema=False)
async def page(request: Request) -> FileResponse:
    """Serve the search page."""
    _index(state_of(request))
    return FileResponse(WEB / "search.html")


@router.post(
    "/v1/search",
    summary="Find images by a text or an image",
    **describe(SearchAnswer, json=SearchRequest, form=(SearchFields, "image")),
)
async def search(request: Request, caller: Caller) -> Response:
    """Return the entries of the index that are most similar to a text or an image, best first.

    Send either a text or an image. Scores are cosines, -1 to 1. Scores between two images are higher than
    scores between an image and a text. The status is 404 if the gateway serves no index.
    """
    index = _index(caller.state)
    fields, sources = await _read(request, caller)
    if (fields.text is None) == (not sources):
        raise InvalidInputError("give either a text or an image")
    if len(sources) > 1:
        raise InvalidInputError(f"image: {len(sources)} given; a search takes one")
    model = await caller.state.inference.model(caller.deadline)
    _check_model(index, model)
    start_s = time.perf_counter()
    with collecting() as collected:
        if fields.text is not None:
            (vector,) = await embed_texts(caller, [fields.text])
        else:
            (vector,) = await embed_images(request, caller, sources)
    triton_ms, start_s = 1000 * (time.perf_counter() - start_s), time.perf_counter()
    hits = await _ask_index(caller, lambda: index.search(vector, fields.top_k, kind=KINDS[fields.of]))
    entries = await _ask_index(caller, index.count)
    index_ms = 1000 * (time.perf_counter() - start_s)
    content = _content(model, entries, [(hit.entry, hit.score) for hit in hits], collected.warnings)
    timing = f"triton;dur={triton_ms:.1f}, index;dur={index_ms:.1f}"
    return JSONResponse(content, headers={"Server-Timing": timing})


@router.get(
    "/v1/search",
    summary="List images of the index",
    response_model=SearchAnswer,
    responses=describe_errors(400, 401, 404, 429, 500, 503, 504),
)
async def browse(
    caller: Caller,
    top_k: Annotated[int, Query(ge=1, le=100, description="Maximum number of images.")] = 20,
) -> Response:
    """Return images of the index without a query, in no order that means anything and without scores.

    The status is 404 if the gateway serves no index.
    """
    index = _index(caller.state)
    model = await caller.state.inference.model(caller.deadline)
    found = await _ask_index(caller, lambda: index.first(top_k))
    entries = await _ask_index(caller, index.count)
    return JSONResponse(_content(model, entries, [(entry, None) for entry in found], []))


@router.get(
    "/v1/search/{id}/thumbnail",
    summary="Get a thumbnail of an image in the index",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}, "description": "A JPEG with sides of at most 256 pixels."},
        **describe_errors(400, 401, 404, 429, 504),
    },
)
async def picture(
    caller: Caller, id: Annotated[str, Path(description="Id of a search result.", pattern="^[0-9a-f]{32}$")]
) -> Response:
    """Return a thumbnail rendered from the indexed file, without the file's metadata.

    The status is 404 if the file no longer exists.
    """
    from tritonclip.search._thumbnails import MEDIA_TYPE, thumbnail

    index = _index(caller.state)
    entry = await _ask_index(caller, lambda: index.get(id))
    if entry is None or entry.kind != "image":
        raise Problem(status=404, message="the index has no such image", param="id")
    try:
        async with _thumbnail_slots:
            content = await _in_thread(caller, lambda: thumbnail(entry.path))
    except InvalidInputError as error:
        raise Problem(status=404, message="the image's file is gone or no longer an image") from error
    return Response(content, media_type=MEDIA_TYPE)


def _content(
    model: ModelInfo, entries: int, found: list[tuple[Entry, float | None]], warnings: list[str]
) -> dict[str, Any]:
    """Build the body of a response."""
    return {
        "model": model.checkpoint,
        "entries": entries,
        "results": [
            {"id": entry.id, "kind": entry.kind, "name": entry.name, "score": score} for entry, score in found
        ],
        "warnings": warnings,
    }


async def _read(request: Request, caller: AuthorizedCaller) -> tuple[SearchFields, list[Source]]:
    if is_form(request):
        body = await read_form(request, SearchFields, caller.state.settings, ("image",))
        return body.fields, body.images
    read = await read_json(request, SearchRequest)
    return read, [] if read.image is None else [Source(read.image)]


async def _ask_index(caller: AuthorizedCaller, work: Callable[[], T]) -> T:
    """Query the index in a thread. An index that cannot be read is reported as a server error."""
    try:
        return await _in_thread(caller, work)
    except DeadlineExceededError:
        raise
    except ServerUnavailableError as error:
        message = "the index cannot be reached; try again later"
        raise Problem(status=503, message=message, cause=str(error)) from error
    except TritonClipError as error:
        message = "the index cannot be read; report it with the X-Request-ID of this response"
        raise Problem(status=500, message=message, cause=str(error), code="index_failed") from error


async def _in_thread(caller: AuthorizedCaller, work: Callable[[], T]) -> T:
    try:
        return await asyncio.wait_for(asyncio.to_thread(work), caller.deadline.left_s)
    except asyncio.TimeoutError as error:
        if isinstance(error, TritonClipError):
            raise
        raise DeadlineExceededError("no answer within the deadline") from error


def _index(state: State) -> SearchIndex:
    if state.index is None:
        raise Problem(status=404, message=NO_INDEX)
    return state.index


def _check_model(index: SearchIndex, model: ModelInfo) -> None:
    try:
        index.check_model(model)
    except InvalidInputError as error:  # the operator's mistake, not the caller's
        raise ModelNotReadyError(error.message) from error
