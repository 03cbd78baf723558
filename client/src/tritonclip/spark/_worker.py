"""The part of a stage that runs in Spark's Python workers: bulk calls of one client per process."""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tritonclip import Client, InvalidInputError, TritonClipError
from tritonclip._settings import ENV_API_KEY
from tritonclip.spark._inputs import InputForm, RowInput, read_inputs

ROWS_PER_FRAME = 1000
_POSITION = re.compile(r"^(image|text) \d+\b|(?<=Correct this )(image|text) \d+(?=, or leave it out)")
"""Position of an input in the bulk call, as the client's errors name it."""

BulkCall = Callable[[Client, Iterator[Any]], Iterator[Any]]
"""A bulk method of the client; yields an answer or a TritonClipError for each input."""


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """Settings of the client that the tasks of a worker process share.

    Attributes:
        url: Address of the server, or "" for the one in the worker's environment.
        api_key_env: Name of the environment variable that holds the API key.
        preprocess: `server` or `client`.
    """

    url: str
    api_key_env: str
    preprocess: str = "server"


@dataclass(frozen=True, kw_only=True)
class RequestSettings:
    """Settings of a stage's requests; see `BulkOptions`.

    Attributes:
        client: Settings of the client.
        identity: Identity that the server's models must have, or "" for any.
        timeout_s: Deadline of a request, in seconds.
        patience_s: Time to retry a request during an outage, in seconds.
        batch_size: Rows per request.
        concurrency: Requests in flight.
        fail_fast: True if the first bad row fails the task.
    """

    client: ClientSettings
    identity: str
    timeout_s: float
    patience_s: float
    batch_size: int
    concurrency: int
    fail_fast: bool

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the bulk call, which returns errors so that they can be tied to their rows."""
        return {
            "batch_size": self.batch_size,
            "concurrency": self.concurrency,
            "timeout_s": self.timeout_s,
            "patience_s": self.patience_s,
            "on_error": "return",
        }


def answer_batches(
    batches: Iterable[Any],
    form: InputForm,
    settings: RequestSettings,
    bulk_call: BulkCall,
    columns: dict[str, Callable[[Any], Any]],
) -> Iterator[pd.DataFrame]:
    """Answer the rows of a partition.

    Args:
        batches: The rows, in the form that pandas UDFs receive.
        form: The form of the input column.
        settings: Settings of the requests.
        bulk_call: The bulk method to call.
        columns: For each output column, the function that extracts its value from an answer.

    Yields:
        These columns and `error`, in the order of the rows. All values are null for a null row.
    """
    empty = (None,) * len(columns)

    def rows() -> Iterator[tuple[Any, ...]]:
        for answer in _answers(read_inputs(batches, form), settings, bulk_call):
            if isinstance(answer, TritonClipError):
                yield (*empty, str(answer))
            elif answer is None:
                yield (*empty, None)
            else:
                yield (*(extract(answer) for extract in columns.values()), None)

    remaining = rows()
    while frame := list(itertools.islice(remaining, ROWS_PER_FRAME)):
        yield pd.DataFrame(frame, columns=[*columns, "error"], dtype=object)


def _answers(inputs: Iterator[RowInput], settings: RequestSettings, bulk_call: BulkCall) -> Iterator[Any]:
    """Yield an answer, an error or None for each input, in order."""
    waiting: deque[RowInput] = deque()

    def to_send() -> Iterator[Any]:
        for each in inputs:
            waiting.append(each)
            if each.is_sent:
                yield each.value

    def not_sent() -> Iterator[Any]:
        while waiting and not waiting[0].is_sent:
            each = waiting.popleft()
            yield each.value if each.value is None else _with_source(each.value, each, settings)

    sending = to_send()
    first = list(itertools.islice(sending, 1))
    if first:  # a bulk call would embed the labels even without an image
        client = _client(settings.client)
        _check_identity(client, settings.identity)
        for answer in bulk_call(client, itertools.chain(first, sending)):
            yield from not_sent()
            each = waiting.popleft()
            yield _with_source(answer, each, settings) if isinstance(answer, TritonClipError) else answer
        _check_identity(client, settings.identity)
    yield from not_sent()


def _check_identity(client: Client, wanted: str) -> None:
    """Fail the task, whatever its rows, if the server has another model than the stage requires."""
    for model in client.models() if wanted else ():
        if model.identity != wanted:
            raise InvalidInputError(
                f"identity: the server's model {model.checkpoint!r} has {model.identity or 'none'}, but the "
                f"stage requires {wanted}; connect to a server with that model, or set the identity of this"
            )


def _with_source(error: TritonClipError, row: RowInput, settings: RequestSettings) -> TritonClipError:
    """Name the row's source in an error, instead of its position; raise it if the stage fails fast."""
    error.message = _POSITION.sub(lambda found: found[1] or found[2], error.message)
    if row.source and row.source not in error.message:
        error.message = f"{row.source}: {error.message}"
    if settings.fail_fast:
        raise error
    return error


@functools.cache
def _client(settings: ClientSettings) -> Client:
    """Return the client that the tasks of a process share."""
    key = os.environ.get(settings.api_key_env)
    if not key and settings.api_key_env != ENV_API_KEY:
        raise InvalidInputError(
            f"apiKeyEnv: the executor has no variable {settings.api_key_env}; set it on every executor, for "
            f"example with spark.executorEnv.{settings.api_key_env}"
        )
    return Client(settings.url or None, api_key=key, preprocess=settings.preprocess)
