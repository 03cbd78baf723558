"""Measures what the REST gateway costs: beside straight gRPC on the same server, in turns, and in memory.

One process sends both loads, from as many threads as there are callers, so that its own cost is in both. The
same requests go both ways: one JPEG photograph of 640 x 480 and ten labels.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import psutil  # type: ignore[import-untyped]
import urllib3
from rich.console import Console

from tritonclip import Client
from tritonclip_server.benchmarks import workload
from tritonclip_server.benchmarks.bulk import rate_text
from tritonclip_server.benchmarks.gateway_process import GatewayProcess, running
from tritonclip_server.repository.prepare import main as prepare_weights
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

PHOTOS, LABELS = 64, 10
WARM_UP = 20
SAMPLES = 20  # of the memory, over a run of uploads
MIB = 2**20
Call = Callable[[bytes], None]

console = Console(highlight=False, soft_wrap=True)


@click.command()
@click.option(
    "--random", "architecture", default="vit-b-32", show_default=True, help="Full size, random weights."
)
@click.option("--checkpoint", help="A checkpoint instead.")
@click.option("--single", default=150, show_default=True, help="Calls of one caller, each way.")
@click.option("--callers", default=32, show_default=True, help="Callers of the throughput.")
@click.option(
    "--rounds", default=5, show_default=True, help="Times that the throughput is measured, each way."
)
@click.option("--seconds", default=10.0, show_default=True, help="Of one such time.")
@click.option("--uploads", default=0, show_default=True, help="Uploads of the run for memory; 0: none.")
def main(
    architecture: str,
    checkpoint: str | None,
    single: int,
    callers: int,
    rounds: int,
    seconds: float,
    uploads: int,
) -> None:
    """Compares a classify call through the gateway with one straight over gRPC."""
    labels = workload.labels(LABELS)
    photos = list(workload.photos(PHOTOS, workload.PHOTO_SIZE))
    with tempfile.TemporaryDirectory() as name:
        source = [checkpoint] if checkpoint else ["--random", architecture]
        prepare_weights([*source, "--output", f"{name}/models"], standalone_mode=False)
        options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
        with (
            EmbeddedTriton(Path(name) / "models", options) as server,
            running(server.grpc_url) as gateway,
            Client(server.grpc_url, timeout_s=120) as client,
            urllib3.PoolManager(maxsize=callers, retries=False) as pool,
        ):
            ways: dict[str, Call] = {
                "gRPC": lambda photo: _straight(client, photo, labels),
                "gateway": lambda photo: _through(pool, gateway.url, photo, labels),
            }
            if single:
                one_caller(ways, photos, single)
            if rounds:
                many_callers(ways, photos, callers, rounds, seconds)
            if uploads:
                memory(ways["gateway"], photos, gateway, uploads, callers)


def one_caller(ways: dict[str, Call], photos: list[bytes], calls: int) -> None:
    """Latencies of one caller, call by call in turns."""
    times_ms: dict[str, list[float]] = {way: [] for way in ways}
    for number, photo in zip(range(WARM_UP + calls), itertools.cycle(photos), strict=False):
        for way, call in ways.items():
            start_s = time.perf_counter()
            call(photo)
            if number >= WARM_UP:
                times_ms[way].append((time.perf_counter() - start_s) * 1000)
    for way, found in times_ms.items():
        low, middle, high = statistics.quantiles(found, n=4)
        console.print(f"1 caller, {way}: median {middle:.2f} ms, quartiles {low:.2f} and {high:.2f}")
    more_ms = [
        through - straight for straight, through in zip(times_ms["gRPC"], times_ms["gateway"], strict=True)
    ]
    medians = statistics.median(times_ms["gateway"]) - statistics.median(times_ms["gRPC"])
    pairs = statistics.median(more_ms)
    console.print(f"the gateway adds {medians:.2f} ms (of medians), {pairs:.2f} ms (median of pairs)")


def many_callers(
    ways: dict[str, Call], photos: list[bytes], callers: int, rounds: int, seconds: float
) -> None:
    """Images a second of many callers, in turns."""
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for call in ways.values():
        images_per_s(call, photos, callers, 3)
    for _ in range(rounds):
        for way, call in ways.items():
            rates[way].append(images_per_s(call, photos, callers, seconds))
    for way, found in rates.items():
        console.print(f"{callers} callers, {way}: {rate_text(found)}")
    ratios = [through / straight for straight, through in zip(rates["gRPC"], rates["gateway"], strict=True)]
    console.print(
        f"ratio, median of rounds: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )


def images_per_s(call: Call, photos: list[bytes], callers: int, seconds: float) -> float:
    """Images a second of so many callers, each with one request in flight, until the time is over."""
    work = itertools.cycle(photos)
    done, failures = [0] * callers, []
    end_s = time.perf_counter() + seconds

    def run(place: int) -> None:
        try:
            while time.perf_counter() < end_s:
                call(next(work))
                done[place] += 1
        except Exception as error:  # told once the threads have ended
            failures.append(error)

    start_s = time.perf_counter()
    threads = [threading.Thread(target=run, args=(place,)) for place in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(done) / (time.perf_counter() - start_s)


def memory(call: Call, photos: list[bytes], gateway: GatewayProcess, uploads: int, callers: int) -> None:
    """The gateway's memory over a run of uploads by many callers."""
    process = psutil.Process(gateway.process.pid)
    sizes_mib = []
    for _ in range(SAMPLES):
        work = iter(list(itertools.islice(itertools.cycle(photos), uploads // SAMPLES)))
        lock = threading.Lock()

        def run(work: object = work, lock: threading.Lock = lock) -> None:
            while True:
                with lock:
                    photo = next(work, None)  # type: ignore[call-overload]
                if photo is None:
                    return
                call(photo)

        threads = [threading.Thread(target=run) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sizes_mib.append(process.memory_info().rss / MIB)
    shown = ", ".join(f"{size:.1f}" for size in sizes_mib)
    console.print(f"memory of the gateway over {uploads} uploads, MiB: {shown}")


def _straight(client: Client, photo: bytes, labels: list[str]) -> None:
    client.classify(photo, labels)


def _through(pool: urllib3.PoolManager, url: str, photo: bytes, labels: list[str]) -> None:
    fields: list[tuple[str, Any]] = [("images", ("photo.jpg", photo, "image/jpeg"))]
    fields += [("labels", label) for label in labels]
    reply = pool.request("POST", f"{url}/v1/classify", fields=fields)
    if reply.status != 200:
        raise RuntimeError(f"status {reply.status}: {reply.data[:500]!r}")


if __name__ == "__main__":
    main()
