"""Where the time of a call went: measured by the server's steps and around each exchange with it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from tritonclip._answers.predictions import PredictionBatch, Predictions
from tritonclip._calls import codec, wire
from tritonclip._types import Timings

NO_TIMER: contextlib.nullcontext[None] = contextlib.nullcontext()
_collected: ContextVar[list[Timings] | None] = ContextVar("timings", default=None)


@contextlib.contextmanager
def collect_timings() -> Iterator[list[Timings]]:
    """Collect the timings of all calls in the block, of child tasks too, by clients with `timings=True`.

    It is for answers that are arrays; those of `classify` and `classify_many` have `timings` themselves. A
    bulk method adds one for each of its requests. Calls without an inference, such as `models`, add none.
    """
    collected: list[Timings] = []
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)


class Timer:
    """Measures one call, from its creation. Each exchange with the server runs in a `with` block of it."""

    def __init__(self) -> None:
        self._start_s = self._sent_s = time.perf_counter()
        self._exchanged_s = 0.0
        self._server_us = [0] * len(codec.SERVER_PARTS)
        self._known = self._unknown = 0

    def __enter__(self) -> None:
        """Begin an exchange."""
        self._sent_s = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End an exchange, successful or not."""
        self._exchanged_s += time.perf_counter() - self._sent_s

    def add(self, answer: wire.Answer, model: wire.Model) -> None:
        """Add what the server reports in an answer. If an older server reports nothing, nothing is known.

        Raises:
            InferenceError: The timings are malformed.
        """
        parts = codec.decode_timings(answer.outputs, model)
        if parts is None:
            self._unknown += 1
        else:
            self._known += 1
            self._server_us = [sum(pair) for pair in zip(self._server_us, parts, strict=True)]

    def finish(self, result: Any) -> None:
        """Give the timings to the answers of `classify` in a result, and to `collect_timings`."""
        if self._unknown or not self._known:
            return
        call_ms = (time.perf_counter() - self._start_s) * 1000
        exchanged_ms = self._exchanged_s * 1000
        server_ms = [part_us / 1000 for part_us in self._server_us]
        timings = Timings._make([*server_ms, exchanged_ms - sum(server_ms), call_ms - exchanged_ms])
        for answer in result if isinstance(result, list) else ():
            if isinstance(answer, Predictions):
                answer.timings = timings
        if isinstance(result, (Predictions, PredictionBatch)):
            result.timings = timings
        collected = _collected.get()
        if collected is not None:
            collected.append(timings)
