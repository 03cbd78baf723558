"""Error responses: index and limit of the client's errors and of the gateway's own checks."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.client.gateway.requests import request_of
from tritonclip import InvalidInputError


@pytest.mark.parametrize(
    ("message", "param", "index", "limit"),
    [
        ("image 3 is too large: 9 x 9 pixels, the limit is 80 (max_image_pixels)", "images[3]", 3, 80),
        ("label 1: it is blank", "labels[1]", 1, None),
        ("labels: 9 given, at most 8 per request; split them", "labels", None, 8),
        ("threshold: expected a number from 0 to 1, got 2", "threshold", None, 1),
        ("the text names no field", None, None, None),
    ],
)
def test_error_of_the_client_keeps_index_and_limit(
    message: str, param: str | None, index: int | None, limit: float | None
) -> None:
    from tritonclip.gateway._problems import problem_of

    error = problem_of(InvalidInputError(message)).body["error"]
    assert (error["param"], error["index"], error["limit"]) == (param, index, limit)


def test_member_of_the_wrong_type_has_its_index() -> None:
    from tritonclip.gateway._problems import Problem
    from tritonclip.gateway.dialects.native import ClassifyRequest
    from tritonclip.gateway.payloads.bodies import read_json

    for body, param, index in (
        (b'{"images": "x", "labels": ["a", 3]}', "labels[1]", 1),
        (b'{"images": "x", "top_k": "a"}', "top_k", None),
    ):
        with pytest.raises(Problem) as caught:
            asyncio.run(read_json(request_of(body), ClassifyRequest))
        error = caught.value.error
        assert (error["param"], error["index"], error["limit"]) == (param, index, None)


def test_body_over_the_limit_names_it() -> None:
    from tritonclip.gateway.access.limits import too_large

    assert too_large(70).error["limit"] == 70
