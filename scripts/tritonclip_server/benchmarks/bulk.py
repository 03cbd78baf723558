"""Measures bulk runs of the client against perf_analyzer on the same server, and their memory.

Both embed the same image files by `clip_image_embedding` over gRPC, in turns, so that a drifting machine
cannot favour one. perf_analyzer sends requests of one image and of as many as the client joins; the better
one counts.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from PIL import Image
from rich.console import Console

from tritonclip import Client
from tritonclip_server.benchmarks import perf_analyzer
from tritonclip_server.repository.prepare import main as prepare_weights
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

MODEL = "clip_image_embedding"
BULK_RUN = """
import itertools, pathlib, re, sys
from tritonclip import Client, find_images
url, directory, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
paths = list(find_images(directory))
with Client(url) as client:
    inputs = itertools.islice(itertools.cycle(paths), count)
    assert sum(1 for _ in client.embed_images_many(inputs)) == count
print(re.search(r"VmHWM:\\s*(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
"""


@click.command()
@click.option("--images", default=2000, show_default=True, help="Image files of a run.")
@click.option("--rounds", default=5, show_default=True, help="Times that each is measured.")
@click.option("--batch-size", default=16, show_default=True, help="Images a request.")
@click.option("--concurrency", default=4, show_default=True, help="Requests in flight.")
@click.option("--callers", default=64, show_default=True, help="perf_analyzer's callers of one image each.")
@click.option("--memory", default="1000,20000", show_default=True, help="Inputs of the runs for memory.")
@click.option("--checkpoint", default="scripts/demo/checkpoint", show_default=True)
def main(
    images: int, rounds: int, batch_size: int, concurrency: int, callers: int, memory: str, checkpoint: str
) -> None:
    """Compares `embed_images_many` with perf_analyzer, and shows that its memory does not grow."""
    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        prepare_weights([checkpoint, "--output", str(scratch / "models")], standalone_mode=False)
        files = write_images(scratch / "images", images)
        options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
        with EmbeddedTriton(scratch / "models", options) as server:
            bulk_name = f"embed_images_many, {batch_size} images a request, {concurrency} in flight"
            loads = [(batch_size, concurrency), (1, callers)]
            rates: dict[str, list[float]] = {}
            bulk_rate(server.grpc_url, files[:200], batch_size, concurrency)  # warm-up
            for _ in range(rounds):
                for size, in_flight in loads:
                    rate = perf_analyzer_rate(server.grpc_url, files, scratch, size, in_flight)
                    kind = f"perf_analyzer, {size} images a request, {in_flight} in flight"
                    rates.setdefault(kind, []).append(rate)
                rate = bulk_rate(server.grpc_url, files, batch_size, concurrency)
                rates.setdefault(bulk_name, []).append(rate)
            for kind, found in rates.items():
                console.print(f"{kind}: {rate_text(found)}")
            ours = statistics.median(rates.pop(bulk_name))
            console.print(f"ratio to the better: {ours / max(map(statistics.median, rates.values())):.3f}")
            for count in map(int, memory.split(",")):
                peak = peak_memory_mib(server.grpc_url, scratch / "images", count)
                console.print(f"peak memory of a run of {count} images: {peak:.1f} MiB")


def write_images(directory: Path, count: int) -> list[Path]:
    """Writes JPEG files of 320 x 240 pixels, about 10 kB each, no two alike."""
    directory.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        blocks = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        blocks.resize((320, 240), Image.Resampling.BICUBIC).save(directory / f"{number:06}.jpg", quality=90)
    return sorted(directory.iterdir())


def rate_text(found: list[float]) -> str:
    """Median and spread of what the rounds gave, in images a second."""
    return f"median {statistics.median(found):.1f} images/s ({min(found):.1f} to {max(found):.1f})"


def bulk_rate(url: str, files: list[Path], batch_size: int, concurrency: int) -> float:
    """Images a second of a bulk run over the files."""
    with Client(url) as client:
        start = time.perf_counter()
        rows = client.embed_images_many(files, batch_size=batch_size, concurrency=concurrency)
        count = sum(1 for _ in rows)
        return count / (time.perf_counter() - start)


def perf_analyzer_rate(url: str, files: list[Path], scratch: Path, size: int, callers: int) -> float:
    """Images a second of perf_analyzer over the same files."""
    program = perf_analyzer.install(Path("build") / "perf_analyzer")
    inputs = scratch / f"requests-{size}.json"
    if not inputs.exists():
        perf_analyzer.write_images(inputs, (path.read_bytes() for path in files), size)
    load = perf_analyzer.measure(
        program,
        model=MODEL,
        grpc_url=url,
        inputs=inputs,
        shapes=[f"image:{size}"],
        callers=callers,
        requests=len(files) // size,
    )
    return load.requests_per_s * size


def peak_memory_mib(url: str, directory: Path, count: int) -> float:
    """The peak memory of a process that embeds so many images, in MiB."""
    command = [sys.executable, "-c", BULK_RUN, url, str(directory), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


if __name__ == "__main__":
    main()
