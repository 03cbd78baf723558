"""Parsing of request bodies, as forms or JSON, into checked fields and image files."""

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

from tritonclip._images.urls import decode_data_url, is_url
from tritonclip.errors import InvalidInputError, TritonClipError
from tritonclip.gateway._problems import Problem
from tritonclip.gateway._settings import GatewaySettings
from tritonclip.gateway.payloads.url_images import UrlImages

M = TypeVar("M", bound=BaseModel)
JSON, FORM = "application/json", "multipart/form-data"
IN_THREAD_BYTES = 1 << 20  # larger bodies take several ms to parse, which must not block other requests
MAX_REPORTED_FAULTS = 3


@dataclass(frozen=True)
class Source:
    """An image as received: the content of a file with its name, or text that encodes or names it."""

    content: bytes | str
    name: str | None = None


@dataclass(frozen=True)
class Body(Generic[M]):
    """A parsed body: its images, and its other fields checked by their model."""

    images: list[Source]
    fields: M


class _Parser(MultiPartParser):
    """Form parser that keeps files in memory: bytes in flight are limited, and a disk is not required."""

    spool_max_size = 2**31


async def read_json(request: Request, model: type[M]) -> M:
    """Parse a JSON body and check its fields.

    Raises:
        Problem: 415 if the body is not JSON, 400 if it does not match the model.
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
    """Parse a form into its images and checked fields.

    Args:
        request: A request with a body of type multipart/form-data.
        model: Model that checks the other fields. A repeated field becomes a list.
        settings: The limits.
        image_fields: Names of the fields that hold images, as files or as text.

    Raises:
        Problem: 415 if the body is not such a form, 400 if it is malformed or does not match the model.
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
    """Return True for a form and False for JSON.

    Raises:
        Problem: 415 if the body is neither.
    """
    return _check_type(request, (FORM, JSON)) == FORM


async def image_files(
    sources: Sequence[Source], settings: GatewaySettings, urls: UrlImages, *, timeout_s: float
) -> list[bytes | TritonClipError]:
    """Return the content of each image's file, or the error if it cannot be read.

    Raises:
        InvalidInputError: If there is no image, or more than the limit per request.
    """
    if not sources:
        raise InvalidInputError("images: none given; give at least one")
    check_count("images", len(sources), settings.max_images)
    return list(
        await asyncio.gather(
            *(
                _image_file(source, f"image {index}", settings, urls, timeout_s)
                for index, source in enumerate(sources)
            )
        )
    )


def check_count(field: str, count: int, limit: int) -> None:
    """Check the number of items in a field.

    Raises:
        InvalidInputError: If it exceeds the limit per request.
    """
    if count > limit:
        raise InvalidInputError(
            f"{field}: {count} given, at most {limit} per request; split them into several requests"
        )


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
            return await asyncio.to_thread(decode_data_url, url, where, settings.max_body_bytes)
        return decode_data_url(url, where, settings.max_body_bytes)
    except TritonClipError as error:
        return error


def _source(value: str | UploadFile) -> Source:
    if isinstance(value, str):
        return Source(value)
    with value.file as file:
        return Source(file.read(), value.filename or None)


def _check_type(request: Request, allowed: tuple[str, ...]) -> str:
    """Return the body's media type, in lower case and without parameters."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Problem(
            status=415, message=f"content-encoding {encoding!r} is not supported; send the body uncompressed"
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in allowed:
        raise Problem(status=415, message=f"content-type {kind!r}: expected {' or '.join(allowed)}")
    return kind


def _malformed(error: ValidationError) -> Problem:
    """Join the first fault of each field into one message, with the request's own field names."""
    faults: dict[Any, str] = {}
    first = None
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        field, *inside = fault["loc"] or ("",)
        place = f"{field}{''.join(f'[{part}]' for part in inside if isinstance(part, int))}"
        first = first or place
        text = "there is no such field" if fault["type"] == "extra_forbidden" else fault["msg"]
        faults.setdefault(field, f"{place}: {text}" if place else text)
    shown = "; ".join(list(faults.values())[:MAX_REPORTED_FAULTS])
    return Problem(status=400, message=f"{shown}. See /docs for the fields", param=first or None)
