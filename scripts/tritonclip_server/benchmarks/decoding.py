"""The command `tritonclip-server benchmark decoding`: rates of image_preprocess alone on Triton.

The servers load no other model, so all cores decode, as on a machine whose encoder runs on a GPU. The CPU
time per image shows what more cores would do. Most of it passes without Python's lock. Files of a few pixels,
which are decoded at once, show the rest: it limits the images/s of one process, however many threads it has.

perf_analyzer is not used: it keeps every answer as text, which takes gigabytes of memory for pixels.
"""

from __future__ import annotations

import re
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from itertools import cycle, islice
from pathlib import Path

import click
import grpc
import psutil  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import service_pb2

from tritonclip_server.benchmarks.workload import photos
from tritonclip_server.gpu.serving import with_instances
from tritonclip_server.paths import DEMO_CHECKPOINT
from tritonclip_server.repository.image_settings import IMAGE_PROCESSORS
from tritonclip_server.repository.prepare import main as prepare
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

MODEL = "image_preprocess"
METHOD = "/inference.GRPCInferenceService/ModelInfer"
FILES = 8
TABLE_COLUMNS = 110
"""The table is narrower; a console of 80 columns would cut its cells."""
FEWEST_CALLERS = 8
"""Least number of requests in flight. With more threads there are two for each."""


@dataclass(frozen=True)
class Decoders:
    """A setting of image_preprocess.

    Attributes:
        instances: Processes.
        threads: Threads of each process.
        processor: The parameter `image_processor`.
    """

    instances: int
    threads: int
    processor: str


@dataclass(frozen=True)
class Rate:
    """Rate and cost of a load.

    Attributes:
        images_s: Images per second.
        model_ms: CPU time of the model's processes per image, in ms.
        triton_ms: CPU time of Triton per image, in ms.
        process_mib: Memory that each of the model's processes does not share, in MiB.
    """

    images_s: float
    model_ms: float
    triton_ms: float
    process_mib: float


@click.command()
@click.option(
    "--decoders", default="1x1,1x2,2x1,2x2,1x16,8x2", show_default=True, help="Instances x threads."
)
@click.option("--sizes", default="640x480,4000x3000,16x16", show_default=True, help="Sizes of the JPEGs.")
@click.option("--processors", default=",".join(IMAGE_PROCESSORS), show_default=True, help="Image processors.")
@click.option("--rounds", default=3, show_default=True, help="Interleaved rounds.")
@click.option("--seconds", default=4.0, show_default=True, help="Duration of a measurement.")
def main(decoders: str, sizes: str, processors: str, rounds: int, seconds: float) -> None:
    """Measure instances and threads of image_preprocess, without any other model."""
    settings = [
        Decoders(*_pair(pair), processor)
        for processor in processors.split(",")
        for pair in decoders.split(",")
    ]
    pixels = {size: _pair(size) for size in sizes.split(",")}
    rates: dict[tuple[str, Decoders], list[Rate]] = {}
    with tempfile.TemporaryDirectory() as name:
        requests = {size: [request_with(file) for file in photos(FILES, pixels[size])] for size in pixels}
        for _ in range(rounds):
            for setting in settings:
                with served_alone(Path(name), setting) as server:
                    for size, files in requests.items():
                        rate = measured(server, files, setting, seconds)
                        rates.setdefault((size, setting), []).append(rate)
    Console(highlight=False, width=TABLE_COLUMNS).print(table(rates))


@contextmanager
def served_alone(scratch: Path, setting: Decoders) -> Iterator[EmbeddedTriton]:
    """Serve image_preprocess of the demo checkpoint, and no other model, until the block ends.

    Args:
        scratch: Folder for a repository per image processor.
        setting: Instances and threads.
    """
    repository = scratch / setting.processor
    config = repository / MODEL / "config.pbtxt"
    if not repository.exists():
        processor = f"{MODEL}.image_processor={setting.processor}"
        prepare(
            [str(DEMO_CHECKPOINT), "--output", str(repository), "--set", processor], standalone_mode=False
        )
        for other in repository.iterdir():
            if other.name != MODEL:
                shutil.rmtree(other)
    text = with_instances(config.read_text(encoding="utf-8"), setting.instances, setting.threads)
    config.write_text(text, encoding="utf-8")
    with EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as server:
        yield server


def measured(server: EmbeddedTriton, requests: Sequence[bytes], setting: Decoders, seconds: float) -> Rate:
    """Measure a load of one image per request, with two requests in flight per thread."""
    callers = max(FEWEST_CALLERS, 2 * setting.instances * setting.threads)
    with grpc.insecure_channel(server.grpc_url, options=[("grpc.max_receive_message_length", -1)]) as channel:
        send = channel.unary_unary(METHOD)
        count = max(4 * callers, int(_images_s(send, requests, callers, 4 * callers) * seconds))
        model_before, triton_before = _cpu_ms(server)
        images_s = _images_s(send, requests, callers, count)
        model, triton = _cpu_ms(server)
    memory = [psutil.Process(pid).memory_full_info().uss / 2**20 for pid in server.stubs()]
    return Rate(
        images_s, (model - model_before) / count, (triton - triton_before) / count, statistics.fmean(memory)
    )


def _images_s(send: Callable[[bytes], bytes], requests: Sequence[bytes], callers: int, count: int) -> float:
    """Send `count` requests, of which `callers` are in flight, and return requests per second."""
    start = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        for _ in pool.map(lambda request: len(send(request)), islice(cycle(requests), count)):
            pass
    return count / (time.perf_counter() - start)


def request_with(file: bytes) -> bytes:
    """Return a serialised gRPC request with one encoded image."""
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1, 1])
    content = struct.pack("<I", len(file)) + file
    request = service_pb2.ModelInferRequest(model_name=MODEL, inputs=[tensor], raw_input_contents=[content])
    return bytes(request.SerializeToString())


def _cpu_ms(server: EmbeddedTriton) -> tuple[float, float]:
    """Return the CPU time of the model's processes, and of Triton."""
    models = [psutil.Process(pid).cpu_times() for pid in server.stubs()]
    triton = psutil.Process(server.pid).cpu_times()
    return 1e3 * sum(model.user + model.system for model in models), 1e3 * (triton.user + triton.system)


def _pair(text: str) -> tuple[int, int]:
    """Read two numbers such as 640x480."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise click.UsageError(f"'{text}' is not two numbers such as 2x1 or 640x480, each at least 1")
    return int(found[1]), int(found[2])


def table(rates: dict[tuple[str, Decoders], list[Rate]]) -> Table:
    """Format the medians of all rounds."""
    made = Table(
        "JPEG", "image_processor", "decoders", "images/s", "ms model", "ms Triton", "images/s/core", "MiB"
    )
    for (size, setting), rounds in rates.items():
        images_s, model_ms, triton_ms, process_mib = map(
            statistics.median, zip(*map(astuple, rounds), strict=True)
        )
        made.add_row(
            size,
            setting.processor,
            f"{setting.instances} x {setting.threads}",
            f"{images_s:.1f}",
            f"{model_ms:.2f}",
            f"{triton_ms:.2f}",
            f"{1e3 / (model_ms + triton_ms):.1f}",
            f"{process_mib:.0f}",
        )
    return made
