"""A contender without a server, in a process of its own: a JSON command a line in, an answer a line out."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Run = Callable[[int, float], dict[str, float]]
"""Works on batches of so many images for so many seconds, in whole batches; see `timed`."""


def serve(runs: Mapping[str, Run]) -> None:
    """Says that it is ready, and then answers commands until its standard input ends.

    Args:
        runs: By the `part` that a command names; the command's `batch` and `seconds` are handed on.
    """
    answer({"ready": True})
    for line in sys.stdin:
        command = json.loads(line)
        answer(runs[command["part"]](command["batch"], command["seconds"]))


def answer(content: Mapping[str, Any]) -> None:
    """Writes one line."""
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


def timed(work: Callable[[], object], images: int, seconds: float) -> dict[str, float]:
    """Repeats `work`, which does so many images, for at least so long.

    Returns:
        `images_per_s`, and the median milliseconds of one `work` as `p50_ms`.
    """
    times_s: list[float] = []
    start = time.perf_counter()
    while not times_s or sum(times_s) < seconds:
        begin = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - begin)
    elapsed = time.perf_counter() - start
    median_s = sorted(times_s)[len(times_s) // 2]
    return {"images_per_s": images * len(times_s) / elapsed, "p50_ms": median_s * 1e3}


def batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, over and over."""
    cycle = itertools.cycle(items)
    while True:
        yield list(itertools.islice(cycle, size))
