"""Request bodies to checked fields and image files: forms, and JSON with base64, data URIs or URLs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import python_multipart.exceptions
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from tritonclip._images.fetch import decode_data, is_url
from tritonclip.errors import InvalidInputError, TritonClipError
from tritonclip.gateway._fetching import UrlImages
from tritonclip.gateway._problems import Problem
from tritonclip.gateway._settings import GatewaySettings

M = TypeVar("M", bound=BaseModel)
JSON, FORM = "application/json", "multipart/form-data"
IN_THREAD_BYTES = 1 << 20  # what takes longer than some milliseconds must not hold up other requests
SHOWN_FAULTS = 3


@dataclass(frozen=True)
class Source:
    """An image as it came: the bytes of a file with its name, or a text that stands for it."""

    content: bytes | str
    name: str | None = None


@dataclass(frozen=True)
class Body(Generic[M]):
    """A body's images, and its other fields checked by their model."""

    images: list[Source]
    fields: M


class _Parser(MultiPartParser):
    """Keeps files in memory: what is under way is bounded in bytes, and a disk may not be there."""

    spool_max_size = 2**31


async def read_json(request: Request, model: type[M]) -> M:
    """The fields of a JSON body.

    Raises:
        Problem: 415 if it is not JSON, 400 if it does not fit the model.
    """
    _check_type(request, (JSON,))
    body = await request.body()

    def parse() -> M:
        try:
            return model.model_validate_json(body or b"null", strict=True)
        except ValidationError as error:
            raise _malformed(error) from error

    return await asyncio.to_thread(parse) if len(body) > IN_THREAD_BYTES else parse()


async def read_form(
    request: Request, model: type[M], settings: GatewaySettings, image_fields: Sequence[str]
) -> Body[M]:
    """The images and other fields of a form.

    Args:
        request: With a body of type multipart/form-data.
        model: Checks the other fields; one that is given several times is a list.
        settings: The limits.
        image_fields: Names of the fields that hold images, as files or as text.

    Raises:
        Problem: 415 if it is not such a form, 400 if it is malformed or a field does not fit.
    """
    _check_type(request, (FORM,))
    parser = _Parser(
        request.headers,
        request.stream(),
        max_files=settings.max_images,
        max_fields=settings.max_texts + settings.max_images,
        max_part_size=settings.max_body_bytes,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, python_multipart.exceptions.FormParserError) as error:
        raise Problem(status=400, message=f"the form is malformed: {error}") from error
    images: list[Source] = []
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name in image_fields:
            images.append(_source(value))
        elif isinstance(value, UploadFile):
            expected = " or ".join(image_fields)
            raise Problem(
                status=400, message=f"unexpected file in field {name!r}; expected {expected}", param=name
            )
        elif name in fields:
            before = fields[name]
            fields[name] = [*before, value] if isinstance(before, list) else [before, value]
        else:
            fields[name] = value
    try:
        return Body(images, model.model_validate(fields))
    except ValidationError as error:
        raise _malformed(error) from error


def is_form(request: Request) -> bool:
    """Whether a body is a form rather than JSON; raises a Problem of 415 where it is neither."""
    return _check_type(request, (FORM, JSON)) == FORM


async def image_files(
    sources: Sequence[Source], settings: GatewaySettings, urls: UrlImages, *, timeout_s: float
) -> list[bytes | TritonClipError]:
    """The bytes of each image's file; an error in place of one that cannot be had.

    Raises:
        InvalidInputError: If there is none, or more than a request may have.
    """
    if not sources:
        raise InvalidInputError("images: none given; give at least one")
    check_count("images", len(sources), settings.max_images)
    return list(
        await asyncio.gather(
            *(
                _image_file(source, f"image {place}", settings, urls, timeout_s)
                for place, source in enumerate(sources)
            )
        )
    )


def check_count(field: str, count: int, most: int) -> None:
    """Raise InvalidInputError where a field holds more than a request may have."""
    if count > most:
        raise InvalidInputError(f"{field}: {count} given, at most {most} in a request; send them in several")


async def _image_file(
    source: Source, where: str, settings: GatewaySettings, urls: UrlImages, timeout_s: float
) -> bytes | TritonClipError:
    content = source.content
    try:
        if isinstance(content, bytes):
            if not content:
                raise InvalidInputError(f"{where}: the file is empty; give the content of an image file")
            return content
        if is_url(content) and content[:5].lower() != "data:":
            return await urls.fetch(content, where, timeout_s)
        url = content if is_url(content) else f"data:;base64,{content}"
        if len(url) > IN_THREAD_BYTES:
            return await asyncio.to_thread(decode_data, url, where, settings.max_body_bytes)
        return decode_data(url, where, settings.max_body_bytes)
    except TritonClipError as error:
        return error


def _source(value: str | UploadFile) -> Source:
    if isinstance(value, str):
        return Source(value)
    with value.file as file:
        return Source(file.read(), value.filename or None)


def _check_type(request: Request, allowed: tuple[str, ...]) -> str:
    """The body's type, in lower case and without parameters."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Problem(
            status=415, message=f"content-encoding {encoding!r} is not taken; send the body as it is"
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in allowed:
        raise Problem(status=415, message=f"content-type {kind!r}: expected {' or '.join(allowed)}")
    return kind


def _malformed(error: ValidationError) -> Problem:
    """The first fault of each field as one text, with the request's own names."""
    faults: dict[Any, str] = {}
    first = None
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        field, *inside = fault["loc"] or ("",)
        place = f"{field}{''.join(f'[{part}]' for part in inside if isinstance(part, int))}"
        first = first or place
        text = "there is no such field" if fault["type"] == "extra_forbidden" else fault["msg"]
        faults.setdefault(field, f"{place}: {text}" if place else text)
    shown = "; ".join(list(faults.values())[:SHOWN_FAULTS])
    return Problem(status=400, message=f"{shown}. See /docs for the fields", param=first or None)
