"""Parsing of request bodies, as forms or JSON, into checked fields and image files.

Everything that a body could expand to is checked before it is expanded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pydantic_core
import python_multipart.exceptions
from fastapi import Request
from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from tritonclip._images.urls import decode_data_url, is_data_url, is_url
from tritonclip._messages.text import shown
from tritonclip.errors import InvalidInputError, TritonClipError
from tritonclip.gateway._problems import Problem
from tritonclip.gateway._settings import GatewaySettings
from tritonclip.gateway.payloads.url_images import UrlImages

M = TypeVar("M", bound=BaseModel)
JSON, FORM, BINARY = "application/json", "multipart/form-data", "application/octet-stream"
IN_THREAD_BYTES = 1 << 18  # larger bodies take several ms to parse, which must not block other requests
PARSED_AT_ONCE = 1 << 16
MAX_COMMAS = 100_000  # bounds the values of a JSON body, which each take far more memory than their text
MAX_ESCAPES = 1_000_000  # each backslash costs 50 times as much as another character
MAX_MEMBERS = 100
MAX_REPORTED_FAULTS = 3
SHOWN_NAME_CHARS = 40
IMAGE_PART = b"image/"


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
    """Form parser that keeps files in memory: bytes in flight are limited, and a disk is not required.

    A part without a file name is a file too if its content type is that of an image.
    """

    spool_max_size = 2**31

    def on_headers_finished(self) -> None:
        """Give a part with an image's content type an empty file name if it has none."""
        part = self._current_part
        kinds = [value for name, value in part.item_headers if name == b"content-type"]
        if kinds and kinds[-1].lower().startswith(IMAGE_PART):
            _, options = parse_options_header(part.content_disposition)
            if b"filename" not in options:
                part.content_disposition = (part.content_disposition or b"") + b'; filename=""'
        super().on_headers_finished()


async def read_json(request: Request, model: type[M]) -> M:
    """Parse a JSON body and check its fields. A member that is null counts as left out.

    A body without a content type is read as JSON, because some clients send none.

    Raises:
        Problem: 415 if the body is not JSON, 400 if it does not match the model or has too many values.
    """
    _check_type(request, (JSON, ""))
    body = await request.body()

    def parse() -> M:
        return _checked(model, _members(body), strict=True)

    return await asyncio.to_thread(parse) if len(body) > IN_THREAD_BYTES else parse()


async def read_json_head(request: Request, model: type[M], length_header: str) -> tuple[M, bytes]:
    """Parse a body that begins with JSON, and return also the bytes after it; see `read_json`.

    Args:
        request: The request.
        model: Model that checks the JSON.
        length_header: Name of the header with the length of the JSON, which is the whole body without it.
    """
    _check_type(request, (JSON, BINARY, ""))
    body = await request.body()
    length = request.headers.get(length_header, str(len(body)))
    if not length.isdecimal() or int(length) > len(body):
        text = f"{length_header}: expected the length of the JSON, at most {len(body)}, got {shown(length)}"
        raise Problem(status=400, message=text, param=length_header)
    size = int(length)

    def parse() -> M:
        return _checked(model, _members(body[:size]), strict=True)

    return await asyncio.to_thread(parse) if size > IN_THREAD_BYTES else parse(), body[size:]


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
        _pieces(request),
        max_files=settings.max_images,
        max_fields=settings.max_texts + settings.max_images,
        max_part_size=settings.max_body_bytes,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, python_multipart.exceptions.FormParserError) as error:
        raise Problem(status=400, message=f"the form is malformed: {str(error):.200}") from error
    images: list[Source] = []
    fields: dict[str, list[str]] = {}
    for name, value in form.multi_items():
        if name in image_fields:
            images.append(_source(value))
        elif isinstance(value, UploadFile):
            message = f"unexpected file in field {shown(name)}; expected {' or '.join(image_fields)}"
            raise Problem(status=400, message=message, param=name[:SHOWN_NAME_CHARS])
        else:
            fields.setdefault(name, []).append(value)
    members = {name: values[0] if len(values) == 1 else values for name, values in fields.items()}
    return Body(images, _checked(model, members))


async def _pieces(request: Request) -> AsyncGenerator[bytes, None]:
    """Yield a body in pieces that are parsed within some ms, and let other requests run in between."""
    async for chunk in request.stream():
        yield chunk[:PARSED_AT_ONCE]
        for start in range(PARSED_AT_ONCE, len(chunk), PARSED_AT_ONCE):
            await asyncio.sleep(0)
            yield chunk[start : start + PARSED_AT_ONCE]


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
    named = {index: source.content for index, source in enumerate(sources) if _is_web_url(source.content)}
    encoded = {index: source.content for index, source in enumerate(sources) if index not in named}

    def decode() -> dict[int, bytes | TritonClipError]:
        return {index: _content(item, index, settings.max_body_bytes) for index, item in encoded.items()}

    chars = sum(len(item) for item in encoded.values() if isinstance(item, str))
    files = await asyncio.to_thread(decode) if chars > IN_THREAD_BYTES else decode()
    fetched = await asyncio.gather(*(_fetched(str(url), i, urls, timeout_s) for i, url in named.items()))
    files.update(zip(named, fetched, strict=True))
    return [files[index] for index in range(len(sources))]


def check_count(field: str, count: int, limit: int) -> None:
    """Check the number of items in a field.

    Raises:
        InvalidInputError: If it exceeds the limit per request.
    """
    if count > limit:
        raise InvalidInputError(
            f"{field}: {count} given, at most {limit} per request; split them into several requests"
        )


def check_texts_size(
    field: str, texts: Sequence[str] | str, settings: GatewaySettings, templates: Sequence[str] = ("",)
) -> None:
    """Check the number of texts and their size within templates, before they are split or expanded.

    Raises:
        InvalidInputError: If one exceeds the limit per request.
    """
    if isinstance(texts, str):
        count, chars = 1, len(texts)
        if texts.count(",") > MAX_COMMAS:
            raise InvalidInputError(f"{field}: more than {MAX_COMMAS} commas; send fewer per request")
    else:
        count = len(texts)
        check_count(field, count, settings.max_texts)
        chars = sum(map(len, texts))
    sentences = count * len(templates)
    if len(templates) > 1 and sentences > settings.max_texts:
        raise InvalidInputError(
            f"{field}: {count} in {len(templates)} templates make {sentences} sentences, at most "
            f"{settings.max_texts} per request; split them into several requests"
        )
    template_chars = sum(map(len, templates))
    chars = chars * len(templates) + count * template_chars
    if chars > settings.max_text_chars:
        several = "a template" if len(templates) == 1 else f"{len(templates)} templates"
        within = f" in {several} of {template_chars} characters" if template_chars else ""
        raise InvalidInputError(
            f"{field}: {count}{within} make {chars} characters, at most {settings.max_text_chars} per "
            "request; split them into several requests"
        )


def _members(body: bytes) -> dict[str, Any]:
    """Parse the members of a JSON object that are not null.

    Raises:
        Problem: 400 if it is no object, or holds so much that parsing it would take long.
    """
    if body.count(b",") > MAX_COMMAS or body.count(b"\\") > MAX_ESCAPES:
        raise Problem(
            status=400,
            message=f"the body has more than {MAX_COMMAS} commas or {MAX_ESCAPES} backslashes; send less per "
            "request, and images as files of a form",
        )
    try:
        found = pydantic_core.from_json(body or b"null")
    except ValueError as error:
        raise Problem(status=400, message=f"Invalid JSON: {error}") from error
    if not isinstance(found, dict):
        raise Problem(status=400, message="the body should be an object. See /docs for the fields")
    check_count("members", len(found), MAX_MEMBERS)
    return {name: value for name, value in found.items() if value is not None}


def _checked(model: type[M], members: Mapping[str, Any], *, strict: bool = False) -> M:
    try:
        return model.model_validate(members, strict=strict)
    except ValidationError as error:
        raise _malformed(error) from error


def _is_web_url(content: bytes | str) -> bool:
    return isinstance(content, str) and is_url(content) and not is_data_url(content)


def _content(content: bytes | str, index: int, max_bytes: int) -> bytes | TritonClipError:
    where = f"image {index}"
    try:
        if isinstance(content, bytes):
            if not content:
                raise InvalidInputError(f"{where}: the file is empty; give the content of an image file")
            return content
        url = content if is_url(content) else f"data:;base64,{content}"
        return decode_data_url(url, where, max_bytes)
    except TritonClipError as error:
        return error


async def _fetched(url: str, index: int, urls: UrlImages, timeout_s: float) -> bytes | TritonClipError:
    try:
        return await urls.fetch(url, f"image {index}", timeout_s)
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
            status=415,
            message=f"content-encoding {shown(encoding)} is not supported; send the body uncompressed",
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in allowed:
        raise Problem(
            status=415, message=f"content-type {shown(kind)}: expected {' or '.join(filter(None, allowed))}"
        )
    return kind


def _malformed(error: ValidationError) -> Problem:
    """Join the first fault of each field into one message, with the request's own field names."""
    faults: dict[Any, str] = {}
    first = index = None
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        field, *inside = fault["loc"] or ("",)
        name = str(field)[:SHOWN_NAME_CHARS]
        indices = [part for part in inside if isinstance(part, int)]
        place = f"{name}{''.join(f'[{part}]' for part in indices)}"
        if not first:
            first, index = place, next(iter(indices), None)
        text = "there is no such field" if fault["type"] == "extra_forbidden" else f"{fault['msg']:.200}"
        faults.setdefault(field, f"{place}: {text}" if place else text)
    reported = "; ".join(list(faults.values())[:MAX_REPORTED_FAULTS])
    message = f"{reported}. See /docs for the fields"
    return Problem(status=400, message=message, param=first or None, index=index)
