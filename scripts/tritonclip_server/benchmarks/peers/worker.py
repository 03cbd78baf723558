"""Protocol of a worker process: one JSON command per line in, one JSON result per line out."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

BatchBenchmark = Callable[[list[bytes], int, float], dict[str, float]]
"""Function of image files, batch size and seconds. It processes whole batches and returns `timed`."""


def serve(benchmarks: Mapping[str, BatchBenchmark]) -> None:
    """Report readiness, then answer commands until standard input ends.

    Args:
        benchmarks: Functions by the `part` of a command. They get the files in its folder `photos`, its
            `batch` and its `seconds`.
    """
    answer({"ready": True})
    for line in sys.stdin:
        command = json.loads(line)
        files = read_files(command["photos"])
        answer(benchmarks[command["part"]](files, command["batch"], command["seconds"]))


@cache
def read_files(directory: str) -> list[bytes]:
    """Read all files of a directory, in the order of their names."""
    return [path.read_bytes() for path in sorted(Path(directory).iterdir())]


def answer(content: Mapping[str, Any]) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


def timed(process_batch: Callable[[], object], images: int, seconds: float) -> dict[str, float]:
    """Repeat a function for at least `seconds`.

    Args:
        process_batch: Function that processes one batch.
        images: Number of images per batch.
        seconds: Minimum duration.

    Returns:
        `images_per_s`, and `p50_ms`, the median time of a batch.
    """
    times_s: list[float] = []
    start = time.perf_counter()
    while not times_s or sum(times_s) < seconds:
        begin = time.perf_counter()
        process_batch()
        times_s.append(time.perf_counter() - begin)
    elapsed = time.perf_counter() - start
    median_s = sorted(times_s)[len(times_s) // 2]
    return {"images_per_s": images * len(times_s) / elapsed, "p50_ms": median_s * 1e3}


def batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of `size` items, cycling through all items forever."""
    cycle = itertools.cycle(items)
    while True:
        yield list(itertools.islice(cycle, size))
