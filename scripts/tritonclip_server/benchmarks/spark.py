"""The command `tritonclip-server benchmark spark`: the Spark stage next to the client's bulk call.

Both classify the same JPEG files on the same server with the same number of requests in flight. The runs are
interleaved, so that a drift of the machine affects both. Spark and its workers start before the first run.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from tritonclip import Client
from tritonclip_server.benchmarks.harness import prepared_server, rate_text
from tritonclip_server.benchmarks.workload import write_patterns
from tritonclip_server.paths import DEMO_CHECKPOINT
from tritonclip_server.serving.launcher import EmbeddedTriton
from tritonclip_server.serving.metrics import total_in_flight

LABELS = [f"a label with the number {number}" for number in range(10)]
POLL_S = 0.02
GRID = [(1, 1), (1, 4), (2, 1), (2, 4), (2, 8)]
"""Pairs of concurrent tasks and requests in flight per task."""


@click.command()
@click.option("--images", default=4000, show_default=True, help="Image files per run.")
@click.option("--rounds", default=5, show_default=True, help="Interleaved rounds.")
@click.option("--tasks", default=2, show_default=True, help="Concurrent Spark tasks.")
@click.option("--concurrency", default=2, show_default=True, help="Requests in flight per task.")
@click.option(
    "--records", default=256, show_default=True, help="Rows per batch that Spark passes to a Python worker."
)
@click.option("--checkpoint", default=str(DEMO_CHECKPOINT), show_default="demo", help="Checkpoint to serve.")
def main(images: int, rounds: int, tasks: int, concurrency: int, records: int, checkpoint: str) -> None:
    """Compare the Spark stage with `Client.classify_many`, and count the requests in flight per task."""
    console = Console(highlight=False, soft_wrap=True)
    with prepared_server(checkpoint) as (server, scratch):
        files = write_patterns(scratch / "images", images)
        spark = start_spark(tasks, records, scratch)
        contents = read_files(spark, files)
        url, name = server.grpc_url, f"Spark, {tasks} tasks x {concurrency}"
        partitions = f"{contents.rdd.getNumPartitions()} partitions"
        paths = spark.createDataFrame([(str(path),) for path in files], "content string")
        runs: dict[str, Callable[[], None]] = {
            f"classify_many, {tasks * concurrency} in flight": partial(
                run_client, url, files, tasks * concurrency
            ),
            f"{name}, paths": partial(run_spark, paths.coalesce(tasks), url, concurrency),
            f"{name}, contents": partial(run_spark, contents.coalesce(tasks), url, concurrency),
            f"{name}, contents, {partitions}": partial(run_spark, contents, url, concurrency),
        }
        rates = measure(runs, rounds, images)
        for kind, found in rates.items():
            console.print(f"{kind}: {rate_text(found)}")
        base = next(iter(rates.values()))
        for kind, found in list(rates.items())[1:]:
            pairs = [ours / theirs for ours, theirs in zip(found, base, strict=True)]
            ratio = statistics.median(found) / statistics.median(base)
            by_round = statistics.median(pairs)
            console.print(f"{kind}: {ratio:.3f} of the client's median; {by_round:.3f} round by round")
        for concurrent_tasks, per_task in GRID:
            run = partial(run_spark, contents.coalesce(concurrent_tasks), url, per_task)
            most = most_in_flight(server, run)
            console.print(f"{concurrent_tasks} tasks x {per_task}: at most {most:.0f} requests in the server")
        spark.stop()


def start_spark(tasks: int, records: int, scratch: Path) -> Any:
    """Start a session on this machine, with Python workers of this environment."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master(f"local[{tasks}]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.host", "127.0.0.1").config(
        "spark.local.dir", str(scratch / "spark")
    )
    builder = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", records)
    spark = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def read_files(spark: Any, files: list[Path]) -> Any:
    """Read the files with Spark, in the partitions that it chooses."""
    return spark.read.format("binaryFile").load(str(files[0].parent))


def run_client(url: str, files: list[Path], concurrency: int) -> None:
    """Classify all files with the bulk call."""
    with Client(url) as client:
        for _ in client.classify_many(files, LABELS, concurrency=concurrency):
            pass


def run_spark(contents: Any, url: str, concurrency: int) -> None:
    """Classify all rows, and discard the results."""
    from tritonclip.spark import ClipZeroShotClassifier

    stage = ClipZeroShotClassifier(
        url=url, inputCol="content", candidateLabels=LABELS, concurrency=concurrency
    )
    stage.transform(contents).select("label", "label_scores").write.format("noop").mode("overwrite").save()


def measure(runs: dict[str, Callable[[], None]], rounds: int, images: int) -> dict[str, list[float]]:
    """Return the images/s of each run by round, after a warm-up round."""
    rates: dict[str, list[float]] = {kind: [] for kind in runs}
    for number in range(rounds + 1):
        for kind, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                rates[kind].append(images / (time.perf_counter() - start))
    return rates


def most_in_flight(server: EmbeddedTriton, run: Callable[[], None]) -> float:
    """Return the largest number of requests observed in the models of the server during a run."""
    ended, seen = threading.Event(), [0.0]

    def watch() -> None:
        while not ended.wait(POLL_S):
            seen.append(total_in_flight(server.progress()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    ended.set()
    watcher.join()
    return max(seen)


if __name__ == "__main__":
    main()
