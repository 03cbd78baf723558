"""Groups answered by a function that fails like a server whose requests time out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tritonclip import DeadlineExceededError, InvalidInputError, ServerUnavailableError, TritonClipError
from tritonclip._isolate import Attempt, answer_or_isolate

HARMLESS = "harmless"


def answer(inputs: str, server: Callable[[Attempt], list[Any]]) -> tuple[list[Any], list[Attempt]]:
    """Answer a group of one-letter inputs; return the results and the attempts."""
    attempts: list[Attempt] = []
    steps = answer_or_isolate(list(enumerate(inputs, start=10)), "image", HARMLESS)
    attempt = next(steps)
    try:
        while True:
            attempts.append(attempt)
            try:
                results = server(attempt)
            except TritonClipError as error:
                attempt = steps.throw(error)
            else:
                attempt = steps.send(results)
    except StopIteration as end:
        return end.value, attempts


def server(attempt: Attempt) -> list[Any]:
    """Answer in upper case; a request with an x is not answered."""
    values = [value for _, value in attempt.group]
    if "x" in values:
        raise DeadlineExceededError("no answer within 3 s.")
    return [value.upper() for value in values]


def shown(results: list[Any]) -> str:
    return "".join("!" if isinstance(one, DeadlineExceededError) else one for one in results)


@pytest.mark.parametrize("inputs", ["x", "xa", "ax", "abc", "abxcd", "xabcdefx", "xxx", "abcdefghijklmnox"])
def test_only_inputs_that_make_requests_fail_get_an_error(inputs: str) -> None:
    results, _ = answer(inputs, server)
    assert shown(results) == inputs.upper().replace("X", "!")
    assert [one.message[:9] for one in results if not isinstance(one, str)] == [
        f"image {index}:" for index, value in enumerate(inputs, start=10) if value == "x"
    ]


def test_error_of_an_isolated_input_says_that_the_server_answers_others() -> None:
    ((error,), _) = answer("x", server)
    wanted = "image 10: no answer within 3 s. The server answers requests without this image."
    assert error.message == wanted


def test_group_that_is_answered_needs_one_attempt() -> None:
    _, attempts = answer("abc", server)
    assert attempts == [Attempt([(10, "a"), (11, "b"), (12, "c")], patient=True)]


def test_only_the_whole_group_single_inputs_and_the_harmless_input_wait_for_outages() -> None:
    _, attempts = answer("abxc", server)
    assert [("".join(value[0] for _, value in one.group), one.patient) for one in attempts] == [
        ("abxc", True), ("h", True), ("ab", False), ("xc", False), ("h", True),
        ("x", True), ("h", True), ("c", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "error",
    [
        ServerUnavailableError("overloaded: 90 images wait"),
        DeadlineExceededError("deadline cannot be met: 9 s of work wait"),
        InvalidInputError("label 0: it is too long"),
    ],
)
def test_rejected_or_invalid_request_isolates_nothing(error: TritonClipError) -> None:
    def rejecting(attempt: Attempt) -> list[Any]:
        assert (10, "a") in attempt.group
        raise error

    with pytest.raises(type(error)) as caught:
        answer("ab", rejecting)
    assert caught.value is error


@pytest.mark.parametrize("harmless", [ServerUnavailableError("cannot connect"), None])
def test_outage_in_which_the_harmless_input_fails_too_is_raised(harmless: TritonClipError | None) -> None:
    def down(attempt: Attempt) -> list[Any]:
        if attempt.group != [(0, HARMLESS)]:
            raise ServerUnavailableError("the first failure")
        if harmless is not None:
            raise harmless
        return [InvalidInputError("image 0: no model answers")]

    with pytest.raises(ServerUnavailableError, match="the first failure"):
        answer("abcd", down)


def test_outage_while_inputs_are_isolated_is_raised() -> None:
    seen: list[Attempt] = []

    def failing(attempt: Attempt) -> list[Any]:
        seen.append(attempt)
        if len(seen) > 2:
            raise ServerUnavailableError("gone for good")
        return server(attempt)

    with pytest.raises(ServerUnavailableError, match="gone for good"):
        answer("axbc", failing)
