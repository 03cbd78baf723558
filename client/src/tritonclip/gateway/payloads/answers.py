"""JSON responses. A large one is rendered piece by piece in a thread, so that no other request waits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse, StreamingResponse

STREAMED_VALUES = 20_000  # about 400 kB, which take some ms to render
PIECE_CHARS = 1 << 16


def json_answer(
    content: Mapping[str, Any], *, rows: str, values: int, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON response.

    Args:
        content: The members of the body, in order.
        rows: Name of the member that is an iterable of rows, or a mapping whose values are. A large response
            reads it lazily, in a thread.
        values: Number of values in all rows. A response with more than `STREAMED_VALUES` is streamed.
        headers: Further headers.
    """
    if values <= STREAMED_VALUES:
        found = content[rows]
        lists = (
            {name: list(each) for name, each in found.items()} if isinstance(found, Mapping) else list(found)
        )
        return JSONResponse({**content, rows: lists}, headers=headers)
    return StreamingResponse(_joined(_pieces(content, rows)), headers=headers, media_type="application/json")


def json_list_answer(rows: Iterable[Any], *, values: int) -> Response:
    """Return a JSON response whose body is a list.

    Args:
        rows: The elements. A large response reads them lazily, in a thread.
        values: Number of values in all rows. A response with more than `STREAMED_VALUES` is streamed.
    """
    if values <= STREAMED_VALUES:
        return JSONResponse(list(rows))
    return StreamingResponse(_joined(_list_pieces(rows)), media_type="application/json")


def _pieces(content: Mapping[str, Any], rows: str) -> Iterator[str]:
    opening = "{"
    for name, value in content.items():
        yield f"{opening}{_dumps(name)}:"
        opening = ","
        if name != rows:
            yield _dumps(value)
        elif isinstance(value, Mapping):
            yield from _lists_pieces(value)
        else:
            yield from _list_pieces(value)
    yield "}"


def _lists_pieces(lists: Mapping[str, Iterable[Any]]) -> Iterator[str]:
    yield "{"
    for index, (name, rows) in enumerate(lists.items()):
        yield f"{',' if index else ''}{_dumps(name)}:"
        yield from _list_pieces(rows)
    yield "}"


def _list_pieces(rows: Iterable[Any]) -> Iterator[str]:
    yield "["
    for index, row in enumerate(rows):
        yield f"{',' if index else ''}{_dumps(row)}"
    yield "]"


def _joined(pieces: Iterator[str]) -> Iterator[str]:
    """Join pieces until they are large enough to be sent."""
    joined: list[str] = []
    chars = 0
    for piece in pieces:
        joined.append(piece)
        chars += len(piece)
        if chars >= PIECE_CHARS:
            yield "".join(joined)
            joined, chars = [], 0
    yield "".join(joined)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
