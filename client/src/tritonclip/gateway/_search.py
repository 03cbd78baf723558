"""Search in the index that the operator has named, its page, and small pictures of what it finds.

A picture is drawn of a file that the index names, by the entry's id: callers neither name a path nor learn
one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from tritonclip._calls.checks import check_texts
from tritonclip._calls.token_counts import collecting
from tritonclip.errors import (
    DeadlineExceededError,
    InvalidInputError,
    ModelNotReadyError,
    ServerUnavailableError,
    TritonClipError,
)
from tritonclip.gateway import _schemas as schemas
from tritonclip.gateway._bodies import Source, image_files, is_form, read_form, read_json
from tritonclip.gateway._door import Admitted, Caller
from tritonclip.gateway._inference import Array
from tritonclip.gateway._observe import count_images
from tritonclip.gateway._pages import WEB
from tritonclip.gateway._problems import Problem
from tritonclip.gateway._routing import ERRORS, describe
from tritonclip.gateway._state import State, state_of

if TYPE_CHECKING:
    from tritonclip.search import SearchIndex

T = TypeVar("T")
KINDS: dict[str, Any] = {"images": "image", "texts": "text", "all": None}
PICTURES_AT_ONCE = 4
NO_INDEX = "no index is served here; the operator gives one with --index"
_pictures = asyncio.Semaphore(PICTURES_AT_ONCE)
router = APIRouter(tags=["search"])


@router.get("/search", include_in_schema=False)
async def page(request: Request) -> FileResponse:
    """The web page of the search."""
    _index(state_of(request))
    return FileResponse(WEB / "search.html")


@router.post(
    "/v1/search",
    summary="Find images by a text or an image",
    **describe(schemas.SearchAnswer, json=schemas.SearchRequest, form=(schemas.SearchFields, "image")),
)
async def search(request: Request, caller: Caller) -> Response:
    """The entries of the gateway's index that are most like a text or an image, best first.

    Give one of the two. Scores are cosines, -1 to 1; those of images with images are higher than those of
    images with texts. 404 where the gateway has no index.
    """
    index = _index(caller.state)
    fields, sources = await _read(request, caller)
    if (fields.text is None) == (not sources):
        raise InvalidInputError("give a text or an image, one of the two")
    model = await caller.state.inference.model(caller.deadline)
    _check_weights(index, model.sha256, model.checkpoint)
    start_s = time.perf_counter()
    with collecting() as counts:
        vector = await _vector(request, caller, fields.text, sources)
    triton_ms, start_s = 1000 * (time.perf_counter() - start_s), time.perf_counter()
    hits = await _ask(caller, lambda: index.search(vector, fields.top_k, kind=KINDS[fields.of]))
    entries = await _ask(caller, index.count)
    index_ms = 1000 * (time.perf_counter() - start_s)
    caller.state.metrics.texts.inc(len(counts))
    content = {
        "model": model.checkpoint,
        "entries": entries,
        "results": [
            {"id": hit.entry.id, "kind": hit.entry.kind, "name": hit.entry.name, "score": hit.score}
            for hit in hits
        ],
        "warnings": [count.warning for count in counts if count.warning],
    }
    timing = f"triton;dur={triton_ms:.1f}, index;dur={index_ms:.1f}"
    return JSONResponse(content, headers={"Server-Timing": timing})


@router.get(
    "/v1/search/{id}/thumbnail",
    summary="A small picture of an image that was found",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}, "description": "A JPEG of at most 256 pixels a side."},
        **{status: {"model": schemas.ErrorAnswer, **ERRORS[status]} for status in (400, 401, 404, 429, 504)},
    },
)
async def picture(
    caller: Caller, id: Annotated[str, Path(description="Of a result.", pattern="^[0-9a-f]{32}$")]
) -> Response:
    """Drawn anew from the indexed file, without anything else that the file holds; 404 where it is gone."""
    from tritonclip.search._thumbnails import MEDIA_TYPE, thumbnail

    index = _index(caller.state)
    entry = await _ask(caller, lambda: index.get(id))
    if entry is None or entry.kind != "image":
        raise Problem(status=404, message="the index has no such image", param="id")
    try:
        async with _pictures:
            content = await _in_thread(caller, lambda: thumbnail(entry.path))
    except InvalidInputError as error:
        raise Problem(status=404, message="the image's file is gone, or no image any more") from error
    return Response(content, media_type=MEDIA_TYPE)


async def _read(request: Request, caller: Admitted) -> tuple[schemas.SearchFields, list[Source]]:
    if is_form(request):
        body = await read_form(request, schemas.SearchFields, caller.state.settings, ("image",))
        return body.fields, body.images
    read = await read_json(request, schemas.SearchRequest)
    return read, [] if read.image is None else [Source(read.image)]


async def _vector(request: Request, caller: Admitted, text: str | None, sources: list[Source]) -> Array:
    state = caller.state
    if text is not None:
        texts, _ = check_texts(text)
        return (await state.inference.embed_texts(texts, caller.deadline))[0]  # type: ignore[no-any-return]
    if len(sources) > 1:
        raise InvalidInputError(f"image: {len(sources)} given; a search takes one")
    files = await image_files(sources, state.settings, state.urls, timeout_s=caller.deadline.left_s)
    answer = (await state.inference.embed_images(files, caller.deadline))[0]
    failed = isinstance(answer, TritonClipError)
    count_images(request, state.metrics, int(not failed), int(failed))
    if isinstance(answer, TritonClipError):
        raise answer
    return answer


async def _ask(caller: Admitted, work: Callable[[], T]) -> T:
    """What the index answers; that it cannot be read is no fault of the caller."""
    try:
        return await _in_thread(caller, work)
    except DeadlineExceededError:
        raise
    except ServerUnavailableError as error:
        message = "the index cannot be reached; try again later"
        raise Problem(status=503, message=message, cause=str(error)) from error
    except TritonClipError as error:
        message = "the index cannot be read; report it with the X-Request-ID of this answer"
        raise Problem(status=500, message=message, cause=str(error), code="index_failed") from error


async def _in_thread(caller: Admitted, work: Callable[[], T]) -> T:
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


def _check_weights(index: SearchIndex, sha256: str, checkpoint: str) -> None:
    try:
        index.check_weights(sha256, checkpoint)
    except InvalidInputError as error:  # no fault of the caller
        raise ModelNotReadyError(error.message) from error
