"""Warnings point at the line of the program that called the package, in every kind of call."""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritonclip import AsyncClient, Client, LabelWarning, TritonClipError, ZeroShotClassifier, find_images
from tritonclip._calls.codec import report_counts
from tritonclip._calls.identity import warn_without_identity
from tritonclip._calls.token_counts import TokenCounts
from tritonclip._types import ModelInfo

DARK = np.full((4, 4), 4080, np.uint16)
DATA_URL = "data:image/png;base64,AAAA"
FAST: dict[str, Any] = {"timeout_s": 0.3, "attempts": 1}
MANY: dict[str, Any] = {"wait_for_server": False, "patience_s": 0.1}


def line() -> int:
    """Return the number of the line that calls this function."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def warned_lines(run: Callable[[], Any]) -> set[tuple[str, str, int]]:
    """Return (category, file, line) of each warning; no server answers, so the call itself fails."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run()
        except TritonClipError:
            pass
    return {(one.category.__name__, one.filename, one.lineno) for one in caught}


def here(category: str, number: int) -> set[tuple[str, str, int]]:
    return {(category, __file__, number)}


def test_call_of_the_client() -> None:
    client, lines = Client("localhost:1", **FAST), []

    def run(labels: Any, image: Any) -> Any:
        lines.append(line() + 1)
        return client.classify(image, labels)

    for protocol in ("grpc", "http"):
        client = Client("localhost:1", protocol=protocol, **FAST)
        assert warned_lines(lambda: run(None, b"x")) == here("LabelWarning", lines[-1])
        assert warned_lines(lambda: run(["a", "b"], DARK)) == here("UserWarning", lines[-1])
        assert warned_lines(lambda: run(["a", "b"], [DARK, DATA_URL, DATA_URL])) == here(
            "UserWarning", lines[-1]
        )


def test_call_of_the_asynchronous_client() -> None:
    lines = []

    async def run(labels: Any, image: Any) -> Any:
        async with AsyncClient("localhost:1", **FAST) as client:
            lines.append(line() + 1)
            return await client.classify(image, labels)

    assert warned_lines(lambda: asyncio.run(run(None, b"x"))) == here("LabelWarning", lines[-1])
    assert warned_lines(lambda: asyncio.run(run(["a", "b"], DARK))) == here("UserWarning", lines[-1])


def test_task_of_its_own_points_at_the_line_that_runs_the_loop() -> None:
    async def main() -> Any:
        async with AsyncClient("localhost:1", **FAST) as client:
            return await asyncio.gather(client.classify(b"x"), return_exceptions=True)

    number = line() + 1
    assert warned_lines(lambda: asyncio.run(main())) == here("LabelWarning", number)


def test_bulk_run() -> None:
    lines = []

    def run(labels: Any) -> None:
        with Client("localhost:1", **FAST) as client:
            lines.append(line() + 1)
            for _ in client.classify_many([DARK], labels, **MANY):
                pass

    assert warned_lines(lambda: run(["a", "b"])) == here("UserWarning", lines[-1])
    assert {("LabelWarning", __file__, lines[-1])} <= warned_lines(lambda: run(["a"]))


def test_asynchronous_bulk_run() -> None:
    lines = []

    async def run() -> None:
        async with AsyncClient("localhost:1", **FAST) as client:
            lines.append(line() + 1)
            async for _ in client.classify_many([DARK], ["a", "b"], **MANY):
                pass

    assert warned_lines(lambda: asyncio.run(run())) == here("UserWarning", lines[-1])


def test_classifier() -> None:
    with Client("localhost:1", **FAST) as client:
        number = line() + 1
        assert warned_lines(lambda: ZeroShotClassifier(client, ["a"])) == here("LabelWarning", number)


def test_search_of_images(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"\xff\xd8\xff\xe0")
    number = line() + 1
    assert warned_lines(lambda: list(find_images(tmp_path))) == here("UserWarning", number)


def test_text_that_is_cut_and_embeddings_without_identity() -> None:
    number = line() + 1
    cut = warned_lines(lambda: report_counts(TokenCounts([99], 77), ["a"], kind="text"))
    assert cut == here("TruncatedTextWarning", number)
    model = ModelInfo(
        name="m",
        checkpoint="c",
        revision="r",
        sha256="s",
        random_weights=False,
        logit_scale=1.0,
        version="1",
        identity="i",
    )
    number = line() + 1
    assert warned_lines(lambda: warn_without_identity("x", "", model)) == here("UserWarning", number)


def test_warning_is_shown_once_per_line() -> None:
    with Client("localhost:1", **FAST) as client, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            with pytest.raises(TritonClipError):
                client.classify(b"x")
    assert [one.category for one in caught] == [LabelWarning]
