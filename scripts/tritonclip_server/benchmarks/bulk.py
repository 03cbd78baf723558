"""The command `tritonclip-server benchmark bulk`: bulk calls of the client next to perf_analyzer.

Both embed the same image files with `clip_image_embedding` over gRPC on the same server. The runs are
interleaved, so that a drift of the machine affects both. perf_analyzer sends requests of one image, and of as
many images as the client's; the faster variant counts.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
from rich.console import Console

from tritonclip import Client
from tritonclip_server.benchmarks import perf_analyzer
from tritonclip_server.benchmarks.harness import prepared_server, rate_text
from tritonclip_server.benchmarks.workload import write_patterns
from tritonclip_server.paths import DEMO_CHECKPOINT

MODEL = "clip_image_embedding"
BULK_PROGRAM = """
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
@click.option("--images", default=2000, show_default=True, help="Image files per run.")
@click.option("--rounds", default=5, show_default=True, help="Interleaved rounds.")
@click.option("--batch-size", default=16, show_default=True, help="Images per request.")
@click.option("--concurrency", default=4, show_default=True, help="Requests in flight.")
@click.option(
    "--callers", default=64, show_default=True, help="Callers of perf_analyzer, with one image per request."
)
@click.option(
    "--memory",
    default="1000,20000",
    show_default=True,
    help="Numbers of images of the runs that measure memory.",
)
@click.option("--checkpoint", default=str(DEMO_CHECKPOINT), show_default="demo", help="Checkpoint to serve.")
def main(
    images: int, rounds: int, batch_size: int, concurrency: int, callers: int, memory: str, checkpoint: str
) -> None:
    """Compare `Client.embed_images_many` with perf_analyzer: throughput and peak memory."""
    console = Console(highlight=False, soft_wrap=True)
    with prepared_server(checkpoint) as (server, scratch):
        files = write_patterns(scratch / "images", images)
        bulk_name = f"embed_images_many, {batch_size} images per request, {concurrency} in flight"
        loads = [(batch_size, concurrency), (1, callers)]
        rates: dict[str, list[float]] = {}
        bulk_rate(server.grpc_url, files[:200], batch_size, concurrency)  # warm-up
        for _ in range(rounds):
            for size, in_flight in loads:
                rate = perf_analyzer_rate(server.grpc_url, files, scratch, size, in_flight)
                name = f"perf_analyzer, {size} images per request, {in_flight} in flight"
                rates.setdefault(name, []).append(rate)
            rate = bulk_rate(server.grpc_url, files, batch_size, concurrency)
            rates.setdefault(bulk_name, []).append(rate)
        for name, found in rates.items():
            console.print(f"{name}: {rate_text(found)}")
        ours = statistics.median(rates.pop(bulk_name))
        ratio = ours / max(map(statistics.median, rates.values()))
        console.print(f"ratio to the faster perf_analyzer: {ratio:.3f}")
        for count in map(int, memory.split(",")):
            peak = peak_memory_mib(server.grpc_url, scratch / "images", count)
            console.print(f"peak memory of a run of {count} images: {peak:.1f} MiB")


def bulk_rate(url: str, files: list[Path], batch_size: int, concurrency: int) -> float:
    """Return images/s of a bulk call over the files."""
    with Client(url) as client:
        start = time.perf_counter()
        rows = client.embed_images_many(files, batch_size=batch_size, concurrency=concurrency)
        count = sum(1 for _ in rows)
        return count / (time.perf_counter() - start)


def perf_analyzer_rate(url: str, files: list[Path], scratch: Path, size: int, callers: int) -> float:
    """Return images/s of perf_analyzer over the same files."""
    program = perf_analyzer.install(Path("build") / "perf_analyzer")
    inputs = scratch / f"requests-{size}.json"
    if not inputs.exists():
        perf_analyzer.write_image_requests(inputs, (path.read_bytes() for path in files), size)
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
    """Return the peak memory in MiB of a process that embeds `count` images."""
    command = [sys.executable, "-c", BULK_PROGRAM, url, str(directory), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


if __name__ == "__main__":
    main()
