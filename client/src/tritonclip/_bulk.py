"""Bulk runs: inputs drawn lazily, joined into requests, several in flight, answered in order, bounded memory.

At most `2 * concurrency` groups exist at a time, so memory does not grow with the number of inputs.
"""

from __future__ import annotations

import asyncio
import contextvars
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
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast

from tritonclip._calls.request import RequestOptions
from tritonclip._images.files import find_images
from tritonclip._retry import is_outage, patiently
from tritonclip._settings import check_seconds, check_whole
from tritonclip._types import Progress
from tritonclip.errors import InvalidInputError, ModelNotReadyError, TritonClipError

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

OnError = Literal["raise", "return"]
Group = list[tuple[int, I]]
"""Inputs with their places in the run."""

IMAGES_A_REQUEST = 16
TEXTS_A_REQUEST = 256
CONCURRENCY = 4
PATIENCE_S = 60.0
MAX_GROUP_BYTES = 8 * 2**20
MAX_BATCH_SIZE = 1024
MAX_CONCURRENCY = 256


class BulkOptions(RequestOptions, total=False):
    """The keyword arguments of the `*_many` methods, beside those of every call, which hold for each request.

    Attributes:
        batch_size: Inputs a request at most; fewer where they are large. 16 images or 256 texts unless told
            otherwise. A server refuses more than its `max_images` or `max_labels`.
        concurrency: Requests in flight; 4 unless told otherwise.
        patience_s: How long a request is tried again while the server is unavailable or does not answer in
            time, in seconds; 60 unless told otherwise. A server may be restarted in the meantime.
        wait_for_server: Also wait for the server's first answer. False fails at once if the server is
            unreachable when the run starts. Default: True.
        on_progress: Called with a `Progress` whenever the results of a request are handed out.
    """

    batch_size: int | None
    concurrency: int | None
    patience_s: float
    wait_for_server: bool
    on_progress: Callable[[Progress], None] | None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options of a bulk run, checked."""

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
    """Check the options of a bulk run; raises InvalidInputError where one is malformed."""
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
    """The images of a bulk run: an iterable as it is, a path or pattern as what `find_images` finds there.

    Raises:
        InvalidInputError: If it is a single image in another form, or the path does not exist.
    """
    if isinstance(images, (str, os.PathLike)):
        return find_images(images)
    if isinstance(images, (bytes, bytearray, memoryview)) or hasattr(images, "size"):  # PIL image, array
        raise InvalidInputError("images: got a single image; give an iterable of images, or a directory")
    if not isinstance(images, (Iterable, AsyncIterable)):
        raise InvalidInputError(f"images: expected an iterable of images, got {type(images).__name__}")
    return images


def check_texts_input(texts: Any) -> Any:
    """The texts of a bulk run; a single string is refused, since its characters would be taken for texts."""
    if isinstance(texts, (str, bytes)):
        raise InvalidInputError("texts: got a single string; give an iterable of texts")
    if not isinstance(texts, (Iterable, AsyncIterable)):
        raise InvalidInputError(f"texts: expected an iterable of strings, got {type(texts).__name__}")
    return texts


class Tally(Generic[R]):
    """Counts a run, and hands out its results."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._lock = threading.Lock()
        self._done = self._failed = self._retries = 0
        self._answered = False

    def count_retry(self) -> None:
        """Count a request that is sent again."""
        with self._lock:
            self._retries += 1

    def note_answer(self) -> None:
        """Note that the server has answered a request of this run."""
        self._answered = True

    def retry_settings(self) -> dict[str, Any]:
        """How a request of this run is tried again; see `_retry.patiently`."""
        return patiently(self._plan.patience_s, self._may_pass, self.count_retry)

    def _may_pass(self, error: TritonClipError) -> bool:
        """Return True if a retry may help: an outage, or a model that is gone for a restart."""
        if self._answered:
            return is_outage(error) or isinstance(error, ModelNotReadyError)
        return self._plan.wait_for_server and is_outage(error)

    def hand_out(self, results: Sequence[R | TritonClipError]) -> Iterator[R | TritonClipError]:
        """The results of a request one by one; the first error is raised if the plan says so."""
        self._done += len(results)
        self._failed += sum(isinstance(result, TritonClipError) for result in results)
        if self._plan.on_progress is not None:
            self._plan.on_progress(Progress(done=self._done, failed=self._failed, retries=self._retries))
        for result in results:
            if self._plan.on_error == "raise" and isinstance(result, TritonClipError):
                raise result
            yield result


class Grouper(Generic[I]):
    """Joins inputs into groups, bounded in number and, by `size_of`, in bytes."""

    def __init__(self, batch_size: int, size_of: Callable[[I], int]) -> None:
        self._batch_size, self._size_of = batch_size, size_of
        self._count = 0
        self._group: Group[I] = []
        self._bytes = 0

    def add(self, item: I) -> Group[I] | None:
        """Take one more input; gives the group that it completes."""
        self._group.append((self._count, item))
        self._count += 1
        self._bytes += self._size_of(item)
        full = len(self._group) >= self._batch_size or self._bytes >= MAX_GROUP_BYTES
        return self.rest() if full else None

    def rest(self) -> Group[I]:
        """The inputs that are in no group yet."""
        group, self._group, self._bytes = self._group, [], 0
        return group


def image_bytes(image: object) -> int:
    """What an image will about weigh in a request, in bytes; 0 where only reading it would tell."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        return len(image)
    if isinstance(image, (str, os.PathLike)):
        try:
            return os.stat(image).st_size
        except (OSError, ValueError):  # a URL, or a file whose error will be told later
            return 0
    size = getattr(image, "nbytes", 0)  # arrays
    return size if isinstance(size, int) else 0


def text_bytes(text: object) -> int:
    """What a text will about weigh in a request, in bytes; 0 for what is none and will be refused."""
    return len(text) if isinstance(text, str) else 0


def in_groups(
    inputs: Iterable[I], batch_size: int, size_of: Callable[[I], int] = image_bytes
) -> Iterator[Group[I]]:
    """The inputs, drawn as they are needed, in groups."""
    grouper = Grouper(batch_size, size_of)
    for item in inputs:
        if group := grouper.add(item):
            yield group
    if rest := grouper.rest():
        yield rest


async def in_groups_async(
    inputs: Iterable[I] | AsyncIterable[I], batch_size: int, size_of: Callable[[I], int] = image_bytes
) -> AsyncIterator[Group[I]]:
    """The twin of `in_groups`."""
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


def in_order(
    groups: Iterable[Group[I]],
    answer: Callable[[Group[I]], list[R | TritonClipError]],
    plan: Plan,
    tally: Tally[R],
    ended: threading.Event,
) -> Iterator[R | TritonClipError]:
    """Answer groups in `plan.concurrency` threads; the results come in the inputs' order.

    Args:
        groups: Drawn only as far as there is room.
        answer: Called in a thread of the pool.
        plan: See `Plan`.
        tally: Counts.
        ended: Set when nobody takes results any more, so that `answer` need not go on waiting.
    """
    window: deque[Future[list[R | TritonClipError]]] = deque()
    pool = ThreadPoolExecutor(plan.concurrency, thread_name_prefix="tritonclip")
    wait = True
    try:
        for group in groups:
            window.append(pool.submit(contextvars.copy_context().run, answer, group))  # with the current span
            while window and (len(window) >= 2 * plan.concurrency or window[0].done()):
                yield from tally.hand_out(window.popleft().result())
        while window:
            yield from tally.hand_out(window.popleft().result())
    except KeyboardInterrupt:
        wait = False  # closing the client ends what is in flight
        raise
    finally:
        ended.set()
        pool.shutdown(wait=wait, cancel_futures=True)


async def in_order_async(
    groups: AsyncIterable[Group[I]],
    answer: Callable[[Group[I]], Awaitable[list[R | TritonClipError]]],
    plan: Plan,
    tally: Tally[R],
) -> AsyncGenerator[R | TritonClipError, None]:
    """The twin of `in_order`, with tasks in place of threads."""
    window: deque[asyncio.Task[list[R | TritonClipError]]] = deque()
    seats = asyncio.Semaphore(plan.concurrency)

    async def seated(group: Group[I]) -> list[R | TritonClipError]:
        async with seats:
            return await answer(group)

    try:
        async for group in groups:
            window.append(asyncio.create_task(seated(group)))
            await asyncio.sleep(0)  # lets it begin, however quickly the inputs come
            while window and (len(window) >= 2 * plan.concurrency or window[0].done()):
                for result in tally.hand_out(await window[0]):
                    yield result
                window.popleft()
        while window:
            for result in tally.hand_out(await window[0]):
                yield result
            window.popleft()
    finally:
        for task in window:
            task.cancel()
        await asyncio.gather(*window, return_exceptions=True)
