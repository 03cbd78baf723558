"""The command `tritonclip-server benchmark gateway`: latency, throughput and memory of the REST gateway.

The same requests, one JPEG photograph of 640 x 480 and ten labels, go through the gateway and directly over
gRPC to the same server; those of a single caller also over HTTP. The runs are interleaved. One process sends
all loads with one thread per caller, so all contain its cost.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import click
import psutil  # type: ignore[import-untyped]
import urllib3
from rich.console import Console

from tritonclip import Client
from tritonclip_server.benchmarks import workload
from tritonclip_server.benchmarks.gateway_process import GatewayProcess, running
from tritonclip_server.benchmarks.harness import prepared_server, rate_text

PHOTOS, LABELS = 64, 10
WARM_UP = 20
MEMORY_SAMPLES = 20
MIB = 2**20
Parts = dict[str, float]
"""Milliseconds of the parts of a request, as `Timings` and the header X-Timing name them."""
Call = Callable[[bytes], Parts]

console = Console(highlight=False, soft_wrap=True)


@click.command()
@click.option(
    "--random",
    "architecture",
    default="vit-b-32",
    show_default=True,
    help="Architecture of full-size random weights.",
)
@click.option("--checkpoint", help="Checkpoint to serve instead of random weights.")
@click.option("--single", default=150, show_default=True, help="Calls of a single caller, each way; 0: none.")
@click.option("--callers", default=32, show_default=True, help="Callers of the throughput and memory runs.")
@click.option("--rounds", default=5, show_default=True, help="Interleaved rounds of the throughput; 0: none.")
@click.option("--seconds", default=10.0, show_default=True, help="Duration of one throughput run.")
@click.option("--uploads", default=0, show_default=True, help="Uploads of the memory run; 0: none.")
def main(
    architecture: str,
    checkpoint: str | None,
    single: int,
    callers: int,
    rounds: int,
    seconds: float,
    uploads: int,
) -> None:
    """Compare classify calls through the gateway with direct calls over gRPC."""
    labels = workload.labels(LABELS)
    photos = list(workload.photos(PHOTOS, workload.PHOTO_SIZE))
    source = [checkpoint] if checkpoint else ["--random", architecture]
    with (
        prepared_server(*source) as (server, _),
        running(server.grpc_url) as gateway,
        Client(server.grpc_url, timeout_s=120, timings=True) as client,
        Client(server.http_url, protocol="http", timeout_s=120, timings=True) as http_client,
        urllib3.PoolManager(maxsize=callers, retries=False) as pool,
    ):
        calls: dict[str, Call] = {
            "gRPC": lambda photo: _call_directly(client, photo, labels),
            "gateway": lambda photo: _call_gateway(pool, gateway.url, photo, labels),
        }
        if single:
            over_http: Call = lambda photo: _call_directly(http_client, photo, labels)  # noqa: E731
            measure_latency(
                {"gRPC": calls["gRPC"], "HTTP": over_http, "gateway": calls["gateway"]}, photos, single
            )
        if rounds:
            measure_throughput(calls, photos, callers, rounds, seconds)
        if uploads:
            measure_memory(calls["gateway"], photos, gateway, uploads, callers)


def measure_latency(calls: dict[str, Call], photos: list[bytes], count: int) -> None:
    """Measure the latencies of one caller, alternating between the ways after each call, and their parts."""
    times_ms: dict[str, list[float]] = {way: [] for way in calls}
    parts_ms: dict[str, list[Parts]] = {way: [] for way in calls}
    for number, photo in zip(range(WARM_UP + count), itertools.cycle(photos), strict=False):
        for way, call in calls.items():
            start_s = time.perf_counter()
            parts = call(photo)
            took_ms = (time.perf_counter() - start_s) * 1000
            if number >= WARM_UP:
                times_ms[way].append(took_ms)
                parts_ms[way].append(parts)
    for way, found in times_ms.items():
        quantiles = statistics.quantiles(found, n=100)
        console.print(f"1 caller, {way}: p50 {quantiles[49]:.2f} ms, p99 {quantiles[98]:.2f} ms")
        means = {name: statistics.fmean(parts[name] for parts in parts_ms[way]) for name in parts_ms[way][0]}
        shown = ", ".join(f"{name} {part_ms:.2f}" for name, part_ms in means.items())
        share = statistics.median(
            sum(parts.values()) / took for parts, took in zip(parts_ms[way], found, strict=True)
        )
        console.print(f"    means in ms: {shown}; they are {share:.1%} of the caller's time, in the median")
    more_ms = [
        through - direct for direct, through in zip(times_ms["gRPC"], times_ms["gateway"], strict=True)
    ]
    medians = statistics.median(times_ms["gateway"]) - statistics.median(times_ms["gRPC"])
    pairs = statistics.median(more_ms)
    console.print(
        f"the gateway adds {medians:.2f} ms (difference of medians), {pairs:.2f} ms (median of differences)"
    )


def measure_throughput(
    calls: dict[str, Call], photos: list[bytes], callers: int, rounds: int, seconds: float
) -> None:
    """Measure the images/s of many callers in interleaved rounds."""
    rates: dict[str, list[float]] = {way: [] for way in calls}
    for call in calls.values():
        images_per_s(call, photos, callers, 3)
    for _ in range(rounds):
        for way, call in calls.items():
            rates[way].append(images_per_s(call, photos, callers, seconds))
    for way, found in rates.items():
        console.print(f"{callers} callers, {way}: {rate_text(found)}")
    ratios = [through / direct for direct, through in zip(rates["gRPC"], rates["gateway"], strict=True)]
    middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
    console.print(f"ratio, median of the rounds: {middle:.3f} ({low:.3f} to {high:.3f})")


def images_per_s(call: Call, photos: list[bytes], callers: int, seconds: float) -> float:
    """Return the images/s of `callers` threads with one request in flight each, for `seconds`."""
    work = itertools.cycle(photos)
    done, failures = [0] * callers, []
    end_s = time.perf_counter() + seconds

    def run(caller: int) -> None:
        try:
            while time.perf_counter() < end_s:
                call(next(work))
                done[caller] += 1
        except Exception as error:  # raised once all threads have ended
            failures.append(error)

    start_s = time.perf_counter()
    threads = [threading.Thread(target=run, args=(caller,)) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(done) / (time.perf_counter() - start_s)


def measure_memory(
    call: Call, photos: list[bytes], gateway: GatewayProcess, uploads: int, callers: int
) -> None:
    """Print the memory of the gateway during a run of uploads by many callers."""
    process = psutil.Process(gateway.process.pid)
    sizes_mib = []
    for _ in range(MEMORY_SAMPLES):
        work = iter(list(itertools.islice(itertools.cycle(photos), uploads // MEMORY_SAMPLES)))
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


def _call_directly(client: Client, photo: bytes, labels: list[str]) -> Parts:
    timings = client.classify(photo, labels).timings
    assert timings is not None
    return {name.removesuffix("_ms"): part_ms for name, part_ms in timings._asdict().items()}


def _call_gateway(pool: urllib3.PoolManager, url: str, photo: bytes, labels: list[str]) -> Parts:
    fields: list[tuple[str, Any]] = [("images", ("photo.jpg", photo, "image/jpeg"))]
    fields += [("labels", label) for label in labels]
    reply = pool.request("POST", f"{url}/v1/classify", fields=fields)
    if reply.status != 200:
        raise RuntimeError(f"status {reply.status}: {reply.data[:500]!r}")
    parts = dict(part.split("=") for part in reply.headers["X-Timing"].split(", "))
    return {name: float(part_ms) for name, part_ms in parts.items() if name != "total"}


if __name__ == "__main__":
    main()
