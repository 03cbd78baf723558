"""What runs in Spark's Python workers: a partition's rows through the bulk calls of one client a process."""

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
from tritonclip.spark._inputs import Item, Kind, read_items

ROWS_A_FRAME = 1000
_PLACE = re.compile(r"^(image|text) \d+\b|(?<=Correct this )(image|text) \d+(?=, or leave it out)")

Many = Callable[[Client, Iterator[Any]], Iterator[Any]]
"""A bulk call: the client, the inputs, and an answer or a TritonClipError for each."""
Row = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Server:
    """Which client a stage needs; the workers of one process share it.

    Attributes:
        url: The server; "" for that of this process's environment.
        api_key_env: Name of the variable that holds the API key.
        preprocess: `server` or `client`.
    """

    url: str
    api_key_env: str
    preprocess: str = "server"


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a stage asks the server; see `BulkOptions`.

    Attributes:
        server: The client's settings.
        timeout_s: Deadline of a request, in seconds.
        patience_s: How long an outage is waited for, in seconds.
        batch_size: Rows a request.
        concurrency: Requests in flight.
        fail_fast: Whether the first bad row ends the task.
    """

    server: Server
    timeout_s: float
    patience_s: float
    batch_size: int
    concurrency: int
    fail_fast: bool

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the bulk calls. Errors come back here, to be told with their source."""
        return {
            "batch_size": self.batch_size,
            "concurrency": self.concurrency,
            "timeout_s": self.timeout_s,
            "patience_s": self.patience_s,
            "on_error": "return",
        }


def answer_batches(
    batches: Iterable[Any],
    kind: Kind,
    run: Run,
    many: Many,
    columns: dict[str, Callable[[Any], Any]],
) -> Iterator[pd.DataFrame]:
    """Answer a partition.

    Args:
        batches: Its rows, as pandas UDFs get them.
        kind: Their form.
        run: How to ask.
        many: The bulk call.
        columns: By name, how each column of the answer is taken from what the client gives.

    Yields:
        These columns and `error`, in the order of the rows; all null for a null row.
    """
    empty = (None,) * len(columns)

    def rows() -> Iterator[Row]:
        for answer in _answers(read_items(batches, kind), run, many):
            if isinstance(answer, TritonClipError):
                yield (*empty, str(answer))
            elif answer is None:
                yield (*empty, None)
            else:
                yield (*(take(answer) for take in columns.values()), None)

    left = rows()
    while frame := list(itertools.islice(left, ROWS_A_FRAME)):
        yield pd.DataFrame(frame, columns=[*columns, "error"], dtype=object)


def _answers(items: Iterator[Item], run: Run, many: Many) -> Iterator[Any]:
    """For each item in order an answer, an error, or None."""
    waiting: deque[Item] = deque()

    def to_send() -> Iterator[Any]:
        for item in items:
            waiting.append(item)
            if item.is_sent:
                yield item.value

    def not_sent() -> Iterator[Any]:
        while waiting and not waiting[0].is_sent:
            item = waiting.popleft()
            yield item.value if item.value is None else _told(item.value, item, run)

    sending = to_send()
    first = list(itertools.islice(sending, 1))
    if first:  # a bulk call asks the server for the labels even where there is no image
        for answer in many(_client(run.server, os.getpid()), itertools.chain(first, sending)):
            yield from not_sent()
            item = waiting.popleft()
            yield _told(answer, item, run) if isinstance(answer, TritonClipError) else answer
    yield from not_sent()


def _told(error: TritonClipError, item: Item, run: Run) -> TritonClipError:
    """An error with the row's source in place of its number in the run; raised if the stage says so."""
    error.message = _PLACE.sub(lambda found: found[1] or found[2], error.message)
    if item.source and item.source not in error.message:
        error.message = f"{item.source}: {error.message}"
    if run.fail_fast:
        raise error
    return error


@functools.cache
def _client(server: Server, process: int) -> Client:
    """This process's client of a server, made when first needed; a forked process makes its own."""
    key = os.environ.get(server.api_key_env)
    if not key and server.api_key_env != ENV_API_KEY:
        raise InvalidInputError(
            f"apiKeyEnv: the executor has no variable {server.api_key_env}; set it on every executor, as by "
            f"spark.executorEnv.{server.api_key_env}"
        )
    return Client(server.url or None, api_key=key, preprocess=server.preprocess)
