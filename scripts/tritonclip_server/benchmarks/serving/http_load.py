"""Load generator for the HTTP peers: callers that each keep one request with one image in flight.

It runs in a separate process, so that its CPU time can be measured. It sends multipart forms with the fields
`image` (a JPEG file) and `labels` (JSON), which all HTTP peers accept.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from pathlib import Path

import aiohttp
import click


async def send(
    session: aiohttp.ClientSession, url: str, image: bytes, labels: str, latencies_s: list[float]
) -> None:
    """Send one request, read the response, and append its latency."""
    start = time.perf_counter()
    form = aiohttp.FormData({"labels": labels})
    form.add_field("image", image, filename="image.jpg", content_type="image/jpeg")
    async with session.post(url, data=form) as reply:
        reply.raise_for_status()
        await reply.read()
    latencies_s.append(time.perf_counter() - start)


async def load(url: str, images: list[bytes], labels: str, callers: int, requests: int) -> dict[str, object]:
    """Send requests; return their latencies, the total duration, and the CPU time of this process."""
    remaining = iter(itertools.islice(itertools.cycle(images), requests))
    latencies_s: list[float] = []

    async def call() -> None:
        for image in remaining:
            await send(session, url, image, labels, latencies_s)

    connector = aiohttp.TCPConnector(limit=callers)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        start, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(call() for _ in range(callers)))
        seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    return {"seconds": seconds, "cpu_s": cpu_s, "latencies_s": latencies_s}


@click.command()
@click.argument("url")
@click.option("--photos", type=click.Path(path_type=Path), required=True, help="Folder of JPEG files.")
@click.option(
    "--labels", type=click.Path(path_type=Path), required=True, help="JSON file with a list of labels."
)
@click.option("--callers", type=int, required=True, help="Requests in flight.")
@click.option("--requests", type=int, required=True, help="Number of requests.")
def main(url: str, photos: Path, labels: Path, callers: int, requests: int) -> None:
    """Send requests to URL, and print the result as JSON."""
    images = [path.read_bytes() for path in sorted(photos.iterdir())]
    result = asyncio.run(load(url, images, labels.read_text(encoding="utf-8"), callers, requests))
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
