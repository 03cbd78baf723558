from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenacity

from tritonclip import (
    Client,
    InvalidInputError,
    Progress,
    ServerUnavailableError,
    TritonClipError,
    TruncatedTextWarning,
)
from tritonclip import _bulk as bulk
from tritonclip._calls.token_counts import LabelReport, TokenCounts
from tritonclip._retry import stopped_by

HOPELESS_S = 60.0


def plan(batch_size: int = 3, **options: Any) -> bulk.Plan:
    return bulk.check_plan(batch_size, **{"on_error": "raise", **options})


def run(inputs: Any, answer: Callable[[Any], list[Any]], **options: Any) -> Iterator[Any]:
    chosen = plan(**options)
    groups = bulk.group_inputs(inputs, chosen.batch_size)
    return bulk.run_ordered(groups, answer, chosen, bulk.RunCounts(chosen), threading.Event())


async def run_async(inputs: Any, answer: Callable[[Any], list[Any]], **options: Any) -> list[Any]:
    chosen = plan(**options)

    async def awaited(group: Any) -> list[Any]:
        await asyncio.sleep(0.001 * (group[0][0] % 7))
        return answer(group)

    groups = bulk.group_inputs_async(inputs, chosen.batch_size)
    counts: bulk.RunCounts[Any] = bulk.RunCounts(chosen)
    results = bulk.run_ordered_async(groups, awaited, chosen, counts, threading.Event())
    return [one async for one in results]


def doubled(group: list[tuple[int, int]]) -> list[int]:
    return [2 * value for _, value in group]


def test_groups_hold_every_input_with_its_index() -> None:
    groups = list(bulk.group_inputs("abcdefg", 3))
    assert groups == [
        [(0, "a"), (1, "b"), (2, "c")],
        [(3, "d"), (4, "e"), (5, "f")],
        [(6, "g")],
    ]
    assert list(bulk.group_inputs([], 3)) == []


def test_large_inputs_make_small_groups(tmp_path: Path) -> None:
    big = tmp_path / "big.jpg"
    big.write_bytes(bytes(bulk.MAX_GROUP_BYTES // 2))
    inputs = [big, str(big), bytes(9), np.zeros(bulk.MAX_GROUP_BYTES, np.uint8), "no such file", "http://a"]
    assert [len(group) for group in bulk.group_inputs(inputs, 16)] == [2, 2, 2]


def test_size_of_a_text_is_not_that_of_a_file_with_its_name(tmp_path: Path) -> None:
    big = tmp_path / "big.jpg"
    big.write_bytes(bytes(bulk.MAX_GROUP_BYTES))
    texts: list[Any] = [str(big), "x" * bulk.MAX_GROUP_BYTES, "short", 4]
    groups = bulk.group_inputs(texts, 16, bulk.text_bytes)
    assert [len(group) for group in groups] == [2, 2]


@pytest.mark.parametrize("count", [0, 1, 3, 100])
def test_results_keep_the_order_of_inputs(count: int) -> None:
    wanted = [2 * value for value in range(count)]
    assert list(run(range(count), doubled)) == wanted
    assert asyncio.run(run_async(range(count), doubled)) == wanted


def test_inputs_may_come_from_an_async_iterator() -> None:
    async def count() -> AsyncIterator[int]:
        for value in range(20):
            yield value

    assert asyncio.run(run_async(count(), doubled)) == [2 * value for value in range(20)]


def test_inputs_are_consumed_lazily() -> None:
    drawn = 0

    def inputs() -> Iterator[int]:
        nonlocal drawn
        while drawn < 10_000:
            drawn += 1
            yield drawn

    results = run(inputs(), doubled, batch_size=5, concurrency=2)
    assert drawn == 0
    seen = 0
    for seen, _ in enumerate(results, start=1):
        assert drawn <= seen + 5 * (2 * 2 + 1)
        if seen == 300:
            results.close()
            break
    assert seen == 300
    assert drawn < 400


def test_concurrency_requests_are_in_flight() -> None:
    together = threading.Barrier(4, timeout=60)  # breaks, and fails the run, unless four requests meet

    def meet(group: list[tuple[int, int]]) -> list[int]:
        together.wait()
        return doubled(group)

    assert list(run(range(16), meet, batch_size=1, concurrency=4)) == [2 * v for v in range(16)]


def with_errors(group: list[tuple[int, int]]) -> list[Any]:
    return [InvalidInputError(f"image {i}: odd") if value % 2 else value for i, value in group]


def test_error_is_raised_after_the_results_before_it() -> None:
    results = run([0, 2, 4, 6, 7, 8], with_errors)
    assert [next(results) for _ in range(4)] == [0, 2, 4, 6]
    with pytest.raises(InvalidInputError, match="image 4: odd"):
        next(results)
    with pytest.raises(InvalidInputError, match="image 4: odd"):
        asyncio.run(run_async([0, 2, 4, 6, 7, 8], with_errors))


def test_errors_are_returned_in_the_order_of_inputs() -> None:
    for results in (
        list(run(range(5), with_errors, on_error="return")),
        asyncio.run(run_async(range(5), with_errors, on_error="return")),
    ):
        assert [str(one) if isinstance(one, TritonClipError) else one for one in results] == [
            0, "image 1: odd", 2, "image 3: odd", 4,
        ]  # fmt: skip


def test_label_report_reports_the_first_answer_only() -> None:
    report = LabelReport(["short", "long"])
    with pytest.warns(TruncatedTextWarning, match="label 1 has 99 tokens") as caught:
        report(TokenCounts([5, 99], 77))
        report(TokenCounts([99, 99], 77))
    assert len(caught) == 1


def test_progress_counts_returned_results() -> None:
    reported: list[Progress] = []
    list(run(range(7), with_errors, on_error="return", on_progress=reported.append))
    assert reported == [
        Progress(done=3, failed=1, retries=0),
        Progress(done=6, failed=3, retries=0),
        Progress(done=7, failed=3, retries=0),
    ]


def test_unexpected_exception_ends_the_run_and_its_threads() -> None:
    def broken(group: Any) -> list[Any]:
        raise ZeroDivisionError

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(run(range(100), broken))
    assert threading.active_count() <= before


def test_request_that_loses_its_cancellation_is_not_repeated() -> None:
    ended, waiting = threading.Event(), asyncio.Event()
    attempts: list[int] = []

    async def answer(group: Any) -> list[Any]:
        if group[0][0] == 0:
            await waiting.wait()
            return ["first"]

        async def lose_cancellation() -> None:
            attempts.append(group[0][0])
            waiting.set()
            try:
                await asyncio.sleep(HOPELESS_S)
            except asyncio.CancelledError:
                raise ServerUnavailableError("the connection broke") from None

        policy = stopped_by(ended, counts.retry_policy(patient=True), sleep=asyncio.sleep)
        await tenacity.AsyncRetrying(**policy)(lose_cancellation)
        return []

    async def leave() -> None:
        groups = bulk.group_inputs_async(range(3), 1)
        results = bulk.run_ordered_async(groups, answer, chosen, counts, ended)
        assert await anext(results) == "first"
        await results.aclose()

    chosen = plan(1, patience_s=10 * HOPELESS_S)
    counts: bulk.RunCounts[Any] = bulk.RunCounts(chosen)
    asyncio.run(asyncio.wait_for(leave(), HOPELESS_S))
    assert attempts
    assert len(attempts) == len(set(attempts))


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_size", 0), ("batch_size", 1.5), ("concurrency", True), ("concurrency", 10**6),
     ("patience_s", -1), ("on_error", "ignore"), ("timeout_s", 0), ("priority", -1), ("priority", 1.5),
     ("request_id", 7), ("headers", {"a b": "c"})],
)  # fmt: skip
def test_invalid_option_is_rejected_at_once(name: str, value: Any) -> None:
    with Client("127.0.0.1:9") as client:
        for call in (client.classify_many, client.embed_images_many, client.embed_texts_many):
            with pytest.raises(InvalidInputError, match=name):
                call([], **{name: value})  # type: ignore[operator]


def test_invalid_input_is_rejected_at_once(tmp_path: Path) -> None:
    with Client("127.0.0.1:9") as client:
        for image in (b"x", np.zeros((2, 2), np.uint8)):
            with pytest.raises(InvalidInputError, match="single image"):
                client.embed_images_many(image)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="missing"):
            client.embed_images_many(tmp_path / "missing")
        with pytest.raises(InvalidInputError, match="single string"):
            client.embed_texts_many("a cat")
        with pytest.raises(InvalidInputError, match="got int"):
            client.embed_texts_many(7)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="label 1"):
            client.classify_many([], ["a", ""])
