"""Measures the served system: `benchmark.py [REPOSITORY]`, full-size random weights by default.

JPEG photographs of 640 x 427 pixels, ten labels a request, from a number of callers at a time, over gRPC.
"""

from __future__ import annotations

import io
import itertools
import statistics
import tempfile
import threading
import time
from pathlib import Path

import click
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images

from prepare_weights import main as prepare_weights
from triton_launcher import EmbeddedTriton, ServerOptions
from tritonclip import Client

LABELS = [f"a photo of {thing}" for thing in "cat dog car house tree boat plane flower bridge face".split()]


def photographs() -> list[bytes]:
    """JPEG files of scikit-learn's two sample photographs."""
    files = []
    for array in load_sample_images().images:
        file = io.BytesIO()
        Image.fromarray(array).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def measure(url: str, callers: int, images: int, seconds: float) -> list[float]:
    """Sends requests from `callers` threads for some seconds; returns the latency of each, in seconds."""
    latencies: list[float] = []
    photos = list(itertools.islice(itertools.cycle(photographs()), images))
    with Client(url, timeout_s=120) as client:
        end = time.perf_counter() + seconds

        def call() -> None:
            while (start := time.perf_counter()) < end:
                client.classify(photos, LABELS, hypothesis_template="{}")
                latencies.append(time.perf_counter() - start)

        threads = [threading.Thread(target=call) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return latencies


@click.command()
@click.argument("repository", type=click.Path(path_type=Path), required=False)
@click.option("--callers", default="1,4,16", show_default=True, help="Numbers of callers at a time.")
@click.option("--images", default="1", show_default=True, help="Numbers of images a request.")
@click.option("--seconds", default=15.0, show_default=True, help="Length of one measurement.")
@click.option("--rounds", default=3, show_default=True, help="Interleaved repetitions; the median is shown.")
def main(repository: Path | None, callers: str, images: str, seconds: float, rounds: int) -> None:
    """Measures requests/s, images/s and latency of REPOSITORY on the embedded Triton of this machine."""
    settings = list(itertools.product(map(int, images.split(",")), map(int, callers.split(","))))
    results: dict[tuple[int, int], list[tuple[float, float, float]]] = {setting: [] for setting in settings}
    with tempfile.TemporaryDirectory() as scratch:
        if repository is None:
            repository = Path(scratch) / "models"
            prepare_weights(["--random", "vit-b-32", "--output", str(repository)], standalone_mode=False)
        start = time.perf_counter()
        with EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as server:
            Console().print(f"ready after {time.perf_counter() - start:.1f} s")
            measure(server.grpc_url, callers=4, images=1, seconds=3)
            for _ in range(rounds):
                for setting in settings:
                    latencies = measure(server.grpc_url, setting[1], setting[0], seconds)
                    tail = statistics.quantiles(latencies, n=20)[-1]
                    results[setting].append((len(latencies) / seconds, statistics.median(latencies), tail))
    table = Table("images a request", "callers", "requests/s", "images/s", "median ms", "p95 ms")
    for setting, rows in results.items():
        rate, median_s, tail_s = (statistics.median(column) for column in zip(*rows, strict=True))
        figures = f"{rate:.1f}", f"{rate * setting[0]:.1f}", f"{median_s * 1e3:.0f}", f"{tail_s * 1e3:.0f}"
        table.add_row(*map(str, setting), *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
