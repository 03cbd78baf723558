"""Bulk runs: inputs are consumed lazily, grouped into requests, sent concurrently, and answered in order.

At most `2 * concurrency` groups exist at a time, so memory does not grow with the number of inputs.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast

from tritonclip._calls.flows import Group
from tritonclip._calls.request import RequestOptions
from tritonclip._calls.status import PROBE_IMAGE
from tritonclip._images.files import find_images
from tritonclip._process.workers import Workers
from tritonclip._retry import is_outage, run_retry_policy
from tritonclip._settings import check_seconds, check_whole
from tritonclip._types import Progress
from tritonclip.errors import InvalidInputError, ModelNotReadyError, TritonClipError, rejection_reason

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

OnError = Literal["raise", "return"]

IMAGES_PER_REQUEST = 16
TEXTS_PER_REQUEST = 256
CONCURRENCY = 4
PATIENCE_S = 60.0
MAX_GROUP_BYTES = 8 * 2**20
MAX_BATCH_SIZE = 1024
MAX_CONCURRENCY = 256


class BulkOptions(RequestOptions, total=False):
    """The keyword arguments of the `*_many` methods; those of every call apply to each request.

    Attributes:
        batch_size: Maximum number of inputs per request; large inputs make smaller requests. A server rejects
            more than its `max_images` or `max_labels`. Default: 16 images or 256 texts.
        concurrency: Number of requests in flight. Default: 4.
        patience_s: Maximum time to retry a request while the server is unavailable or too slow, in seconds.
            The server may restart in the meantime. Default: 60.
        wait_for_server: Also wait for the server's first answer. False fails at once if the server is
            unreachable when the run starts. Default: True.
        on_progress: Called with a `Progress` before the results of each request are returned.
    """

    batch_size: int | None
    concurrency: int | None
    patience_s: float
    wait_for_server: bool
    on_progress: Callable[[Progress], None] | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The checked options of a bulk run."""

    batch_size: int
    concurrency: int
    patience_s: float
    wait_for_server: bool
    on_error: OnError
    on_progress: Callable[[Progress], None] | None
    request: RequestOptions


def check_plan(
    default_size: int,
    *,
    on_error: OnError,
    batch_size: int | None = None,
    concurrency: int | None = None,
    patience_s: float = PATIENCE_S,
    wait_for_server: bool = True,
    on_progress: Callable[[Progress], None] | None = None,
    **request: Any,
) -> Plan:
    """Check the options of a bulk run; raise InvalidInputError if one is malformed."""
    if on_error not in ("raise", "return"):
        raise InvalidInputError(f"on_error {on_error!r}: expected 'raise' or 'return'")
    return Plan(
        batch_size=check_whole(
            "batch_size", default_size if batch_size is None else batch_size, MAX_BATCH_SIZE
        ),
        concurrency=check_whole(
            "concurrency", CONCURRENCY if concurrency is None else concurrency, MAX_CONCURRENCY
        ),
        patience_s=check_seconds("patience_s", patience_s),
        wait_for_server=wait_for_server,
        on_error=on_error,
        on_progress=on_progress,
        request=cast(RequestOptions, request),
    )


def check_images_input(images: Any) -> Any:
    """Return the images of a bulk run: the iterable, or the files that `find_images` finds.

    Raises:
        InvalidInputError: It is a single image of another kind, or the path does not exist.
    """
    if isinstance(images, (str, os.PathLike)):
        return find_images(images)
    if isinstance(images, (bytes, bytearray, memoryview)) or hasattr(images, "size"):  # PIL image, array
        raise InvalidInputError("images: got a single image; give an iterable of images, or a directory")
    if not isinstance(images, (Iterable, AsyncIterable)):
        raise InvalidInputError(f"images: expected an iterable of images, got {type(images).__name__}")
    return images


def check_texts_input(texts: Any) -> Any:
    """Return the texts of a bulk run; a single string is rejected, since it would be read as characters."""
    if isinstance(texts, (str, bytes)):
        raise InvalidInputError("texts: got a single string; give an iterable of texts")
    if not isinstance(texts, (Iterable, AsyncIterable)):
        raise InvalidInputError(f"texts: expected an iterable of strings, got {type(texts).__name__}")
    return texts


class RunCounts(Generic[R]):
    """The counts of a run, updated as its results are returned."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        self._done = self._failed = self._retries = 0
        self._answered = False

    def count_retry(self) -> None:
        """Count a retry."""
        with self._lock:
            self._retries += 1

    def note_answer(self) -> None:
        """Note that the server has answered a request of this run."""
        self._answered = True

    def retry_policy(self, *, patient: bool) -> dict[str, Any]:
        """Return the retry policy of a request of this run; see `Attempt` and `run_retry_policy`."""
        is_transient = self._is_transient if patient else _is_rejected
        return run_retry_policy(self._plan.patience_s, is_transient, self.count_retry)

    def _is_transient(self, error: TritonClipError) -> bool:
        """Return True if a retry may help: for an outage, or for a model that is gone during a restart."""
        if self._answered:
            return is_outage(error) or isinstance(error, ModelNotReadyError)
        # A server that rejects a request is reachable, so its overload or restart is waited for in any case.
        return _is_rejected(error) or (is_outage(error) and self._plan.wait_for_server)

    def emit(self, results: Sequence[R | TritonClipError]) -> Iterator[R | TritonClipError]:
        """Count the results of a request and yield them; raise the first error if the plan says so."""
        self._done += len(results)
        self._failed += sum(isinstance(result, TritonClipError) for result in results)
        if self._plan.on_progress is not None:
            self._plan.on_progress(Progress(done=self._done, failed=self._failed, retries=self._retries))
        for result in results:
            if self._plan.on_error == "raise" and isinstance(result, TritonClipError):
                raise result
            yield result


def _is_rejected(error: TritonClipError) -> bool:
    return is_outage(error) and rejection_reason(error.message) is not None


class Grouper(Generic[I]):
    """A builder of groups of inputs, limited in number and, by `size_of`, in bytes."""

    def __init__(self, batch_size: int, size_of: Callable[[I], int]) -> None:
        self._batch_size, self._size_of = batch_size, size_of
        self._count = 0
        self._group: Group[I] = []
        self._bytes = 0

    def add(self, item: I) -> Group[I] | None:
        """Add an input; return the group that it completes, if any."""
        self._group.append((self._count, item))
        self._count += 1
        self._bytes += self._size_of(item)
        full = len(self._group) >= self._batch_size or self._bytes >= MAX_GROUP_BYTES
        return self.rest() if full else None

    def rest(self) -> Group[I]:
        """Return the inputs that are in no group yet."""
        group, self._group, self._bytes = self._group, [], 0
        return group


def image_bytes(image: object) -> int:
    """Estimate an image's size in a request, in bytes; 0 if it is unknown without reading the image."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return len(image)
    if isinstance(image, (str, os.PathLike)):
        try:
            return os.stat(image).st_size
        except (OSError, ValueError):  # a URL, or a file whose error is reported later
            return 0
    size = getattr(image, "nbytes", 0)  # arrays
    return size if isinstance(size, int) else 0


def text_bytes(text: object) -> int:
    """Estimate a text's size in a request, in bytes; 0 for other values, which are rejected later."""
    return len(text) if isinstance(text, str) else 0


@dataclass(frozen=True)
class InputKind:
    """A kind of inputs of bulk runs.

    Attributes:
        noun: Noun for an input.
        size_of: Estimates an input's size in a request, in bytes.
        harmless: An input that a working server answers.
    """

    noun: str
    size_of: Callable[[Any], int]
    harmless: Any


IMAGES = InputKind("image", image_bytes, PROBE_IMAGE)
TEXTS = InputKind("text", text_bytes, "a")


def group_inputs(
    inputs: Iterable[I], batch_size: int, size_of: Callable[[I], int] = image_bytes
) -> Iterator[Group[I]]:
    """Group inputs, which are consumed lazily."""
    grouper = Grouper(batch_size, size_of)
    for item in inputs:
        if group := grouper.add(item):
            yield group
    if rest := grouper.rest():
        yield rest


async def group_inputs_async(
    inputs: Iterable[I] | AsyncIterable[I], batch_size: int, size_of: Callable[[I], int] = image_bytes
) -> AsyncIterator[Group[I]]:
    """Group inputs that may come from an asynchronous iterable; see `group_inputs`."""
    grouper = Grouper(batch_size, size_of)
    async for item in _each(inputs):
        if group := grouper.add(item):
            yield group
    if rest := grouper.rest():
        yield rest


async def _each(inputs: Iterable[I] | AsyncIterable[I]) -> AsyncIterator[I]:
    if isinstance(inputs, AsyncIterable):
        async for item in inputs:
            yield item
    else:
        for item in inputs:
            yield item


def run_ordered(
    groups: Iterable[Group[I]],
    answer: Callable[[Group[I]], list[R | TritonClipError]],
    plan: Plan,
    counts: RunCounts[R],
    ended: threading.Event,
) -> Iterator[R | TritonClipError]:
    """Answer groups in `plan.concurrency` threads; yield the results in the inputs' order.

    Args:
        groups: Consumed only as far as there is room.
        answer: Called in one of the threads.
        plan: See `Plan`.
        counts: The run's counts.
        ended: Set when the caller stops taking results, so that `answer` stops waiting.
    """
    with Workers(answer, plan.concurrency) as workers:
        try:
            for group in groups:
                workers.submit(group)
                while workers.waiting and (workers.waiting >= 2 * plan.concurrency or workers.has_next()):
                    yield from counts.emit(workers.take_next())
            while workers.waiting:
                yield from counts.emit(workers.take_next())
        finally:
            ended.set()


async def run_ordered_async(
    groups: AsyncIterable[Group[I]],
    answer: Callable[[Group[I]], Awaitable[list[R | TritonClipError]]],
    plan: Plan,
    counts: RunCounts[R],
    ended: threading.Event,
) -> AsyncGenerator[R | TritonClipError, None]:
    """Answer groups in tasks instead of threads; see `run_ordered`."""
    window: deque[asyncio.Task[list[R | TritonClipError]]] = deque()
    slots = asyncio.Semaphore(plan.concurrency)

    async def answer_in_slot(group: Group[I]) -> list[R | TritonClipError]:
        async with slots:
            return await answer(group)

    try:
        async for group in groups:
            window.append(asyncio.create_task(answer_in_slot(group)))
            await asyncio.sleep(0)  # lets the task start, however fast the inputs come
            while window and (len(window) >= 2 * plan.concurrency or window[0].done()):
                for result in counts.emit(await window[0]):
                    yield result
                window.popleft()
        while window:
            for result in counts.emit(await window[0]):
                yield result
            window.popleft()
    finally:
        ended.set()  # asyncio.wait_for of Python 3.11 can lose a cancellation, and a retry would follow
        for task in window:
            task.cancel()
        await asyncio.gather(*window, return_exceptions=True)
