"""Measures Spark's stage against the client's bulk call that it is built over.

Both classify the same JPEG files on the same server with as many requests in flight, in turns, so that a
drifting machine cannot favour one. Spark and its Python workers have been started before.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from tritonclip import Client
from tritonclip_server.benchmarks.bulk import rate_text, write_images
from tritonclip_server.repository.prepare import main as prepare_weights
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions
from tritonclip_server.serving.metrics import total_in_flight

LABELS = [f"a label with the number {number}" for number in range(10)]
POLL_S = 0.02
GRID = [(1, 1), (1, 4), (2, 1), (2, 4), (2, 8)]
"""Tasks at a time, and requests in flight of each."""


@click.command()
@click.option("--images", default=4000, show_default=True, help="Image files of a run.")
@click.option("--rounds", default=5, show_default=True, help="Times that each is measured.")
@click.option("--tasks", default=2, show_default=True, help="Tasks of Spark at a time.")
@click.option("--concurrency", default=2, show_default=True, help="Requests in flight of each task.")
@click.option("--records", default=256, show_default=True, help="Rows that Spark hands over at once.")
@click.option("--checkpoint", default="scripts/demo/checkpoint", show_default=True)
def main(images: int, rounds: int, tasks: int, concurrency: int, records: int, checkpoint: str) -> None:
    """Compares Spark with `classify_many`, and tells how many requests tasks put into the server."""
    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        prepare_weights([checkpoint, "--output", str(scratch / "models")], standalone_mode=False)
        files = write_images(scratch / "images", images)
        spark = start_spark(tasks, records, scratch)
        options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
        with EmbeddedTriton(scratch / "models", options) as server:
            contents = read_files(spark, files)
            url, name = server.grpc_url, f"Spark, {tasks} tasks x {concurrency}"
            cut = f"{contents.rdd.getNumPartitions()} partitions"
            paths = spark.createDataFrame([(str(path),) for path in files], "content string")
            ways: dict[str, Callable[[], None]] = {
                f"classify_many, {tasks * concurrency} in flight": partial(
                    run_client, url, files, tasks * concurrency
                ),
                f"{name}, paths": partial(run_spark, paths.coalesce(tasks), url, concurrency),
                f"{name}, contents": partial(run_spark, contents.coalesce(tasks), url, concurrency),
                f"{name}, contents, {cut}": partial(run_spark, contents, url, concurrency),
            }
            rates = measure(ways, rounds, images)
            for kind, found in rates.items():
                console.print(f"{kind}: {rate_text(found)}")
            base = next(iter(rates.values()))
            for kind, found in list(rates.items())[1:]:
                pairs = [ours / theirs for ours, theirs in zip(found, base, strict=True)]
                ratio = statistics.median(found) / statistics.median(base)
                by_round = statistics.median(pairs)
                console.print(f"{kind}: {ratio:.3f} of the client's median; {by_round:.3f} round by round")
            for at_once, each in GRID:
                run = partial(run_spark, contents.coalesce(at_once), url, each)
                most = most_inside(server, run)
                console.print(f"{at_once} tasks x {each}: at most {most:.0f} requests inside the server")
        spark.stop()


def start_spark(tasks: int, records: int, scratch: Path) -> Any:
    """A session on this machine, its Python workers those of this environment."""
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
    """The files as Spark reads them, in the partitions that it chooses."""
    return spark.read.format("binaryFile").load(str(files[0].parent))


def run_client(url: str, files: list[Path], concurrency: int) -> None:
    """Classifies all files by the bulk call."""
    with Client(url) as client:
        for _ in client.classify_many(files, LABELS, concurrency=concurrency):
            pass


def run_spark(contents: Any, url: str, concurrency: int) -> None:
    """Classifies all rows, and throws the answers away."""
    from tritonclip.spark import ClipZeroShotClassifier

    stage = ClipZeroShotClassifier(
        url=url, inputCol="content", candidateLabels=LABELS, concurrency=concurrency
    )
    stage.transform(contents).select("label", "label_scores").write.format("noop").mode("overwrite").save()


def measure(ways: dict[str, Callable[[], None]], rounds: int, images: int) -> dict[str, list[float]]:
    """Images a second of each way, round by round, after one that does not count."""
    rates: dict[str, list[float]] = {kind: [] for kind in ways}
    for number in range(rounds + 1):
        for kind, run in ways.items():
            start = time.perf_counter()
            run()
            if number:
                rates[kind].append(images / (time.perf_counter() - start))
    return rates


def most_inside(server: EmbeddedTriton, run: Callable[[], None]) -> float:
    """The most requests that were seen inside the server's models during a run."""
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
