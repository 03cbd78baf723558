from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest


def body_of(response: Any) -> list[bytes]:
    """Return the pieces of a response's body."""

    async def collect() -> list[bytes]:
        if not hasattr(response, "body_iterator"):
            return [response.body]
        return [piece.encode() async for piece in response.body_iterator]

    return asyncio.run(collect())


@pytest.mark.parametrize("count", [0, 1, 2, 900])
def test_streamed_answer_equals_the_whole_one(count: int) -> None:
    from tritonclip.gateway.payloads.answers import STREAMED_VALUES, json_answer

    rows = [{"index": index, "text": "\u00e9\"'" * 100} for index in range(count)]
    content = {"before": ["a"], "rows": rows, "after": {"b": 1.5}}
    whole = body_of(json_answer(content, rows="rows", values=0))
    streamed = body_of(json_answer(content | {"rows": iter(rows)}, rows="rows", values=STREAMED_VALUES + 1))
    assert b"".join(streamed) == b"".join(whole)
    assert json.loads(b"".join(streamed)) == content
    assert (len(streamed) > 3) == (count == 900)


@pytest.mark.parametrize("names", [[], ["a"], ["a", "b"]])
def test_streamed_lists_equal_the_whole_ones(names: list[str]) -> None:
    from tritonclip.gateway.payloads.answers import STREAMED_VALUES, json_answer

    content = {"before": 1, "rows": {name: [[1.5], [2]] for name in names}}
    for values in (0, STREAMED_VALUES + 1):
        lazy = content | {"rows": {name: iter([[1.5], [2]]) for name in names}}
        pieces = body_of(json_answer(lazy, rows="rows", values=values))
        assert json.loads(b"".join(pieces)) == content


@pytest.mark.parametrize("rows", [[], [[1.5]], [[1.5], [2]]])
def test_streamed_list_equals_the_whole_one(rows: list[Any]) -> None:
    from tritonclip.gateway.payloads.answers import STREAMED_VALUES, json_list_answer

    for values in (0, STREAMED_VALUES + 1):
        assert json.loads(b"".join(body_of(json_list_answer(iter(rows), values=values)))) == rows


def test_rows_are_rendered_while_the_answer_is_sent() -> None:
    from tritonclip.gateway.payloads.answers import STREAMED_VALUES, json_answer

    made = 0

    def rows() -> Iterator[str]:
        nonlocal made
        for _ in range(1000):
            made += 1
            yield "x" * 1000

    async def first_piece() -> None:
        response: Any = json_answer({"rows": rows()}, rows="rows", values=STREAMED_VALUES + 1)
        assert made == 0
        await anext(aiter(response.body_iterator))

    asyncio.run(first_piece())
    assert 0 < made < 100
