"""Attempts to answer a group of a bulk run, which find inputs that make every request with them fail.

A file can time out each request that contains it, or end the process that decodes it. To the client that
looks like an outage. If the server meanwhile answers a request with a harmless input, the group is halved
until such an input is alone, and only that input fails.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

from tritonclip._calls.flows import Group
from tritonclip._retry import is_outage
from tritonclip.errors import TritonClipError, rejection_reason


class Attempt(NamedTuple):
    """A request to send.

    Attributes:
        group: The inputs of the request.
        patient: True if every outage is waited for. False: only a server that rejects requests is, because
            the group itself is suspected of the outage.
    """

    group: Group[Any]
    patient: bool


def answer_or_isolate(
    group: Group[Any], noun: str, harmless: Any, *, patient: bool = True
) -> Generator[Attempt, list[Any], list[Any]]:
    """Answer a group of inputs; return an error for each input that makes requests fail.

    The caller sends the yielded attempts and sends or throws their outcomes into the generator.

    Args:
        group: The inputs, each with its index in the run.
        noun: Noun for an input, "image" or "text".
        harmless: An input that a working server answers.
        patient: See `Attempt`.

    Raises:
        TritonClipError: The attempt failed, and the server does not answer the harmless input either, or it
            rejects requests.
    """
    try:
        return (yield Attempt(group, patient))
    except TritonClipError as error:
        if not is_outage(error) or rejection_reason(error.message):
            raise
        failure = error
    if not (yield from _is_answered(harmless)):
        raise failure
    if len(group) == 1:
        failure.message = (
            f"{noun} {group[0][0]}: {failure.message} The server answers requests without this {noun}."
        )
        return [failure]
    middle = len(group) // 2
    results: list[Any] = []
    for half in (group[:middle], group[middle:]):
        results += yield from answer_or_isolate(half, noun, harmless, patient=len(half) == 1)
    return results


def _is_answered(harmless: Any) -> Generator[Attempt, list[Any], bool]:
    try:
        (answer,) = yield Attempt([(0, harmless)], patient=True)
    except TritonClipError:
        return False
    return not isinstance(answer, TritonClipError)
