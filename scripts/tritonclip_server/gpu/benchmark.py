"""Runs one part of `gpu_benchmark.sh`, which see: `gpu_benchmark.py PART`.

Each part runs in a process of its own and writes what it found into `results.json` and `report.md` as soon as
it has found it, so that nothing is lost when its time is over. Nothing here needs a network.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from tritonclip_server.benchmarks.machine import cpu_name
from tritonclip_server.gpu.report import summary
from tritonclip_server.gpu.run import PLANS, Results, Run


def machine(run: Run) -> None:
    """Versions and sizes."""
    with contextlib.suppress(OSError):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        gpu = subprocess.run(query, capture_output=True, text=True, check=False)
        run.results.put(gpu=gpu.stdout.strip() or "none")
    run.results.put(
        cpu=cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
        shared_memory_gib=round(shutil.disk_usage("/dev/shm").total / 2**30, 1),
    )
    for name in ("torch", "torchvision", "transformers", "numpy", "pillow", "safetensors", "tokenizers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            run.results.put(**{name: importlib.metadata.version(name)})
    import torch

    run.results.put(torch_cuda=torch.version.cuda, cuda_available=torch.cuda.is_available())


def prepare(run: Run) -> None:
    """Writes the model repository."""
    command = [sys.executable, "-m", "tritonclip_server", "prepare", "--output", str(run.repository)]
    command += ["--set", "image_preprocess.image_formats=JPEG"]  # This machine's Pillow may lack others.
    for setting in os.environ.get("SETTINGS", "").split():
        command += ["--set", setting]
    if run.plan.max_bucket:
        for model in ("vision_encoder", "text_encoder"):
            command += ["--set", f"{model}.max_bucket={run.plan.max_bucket}"]
    if run.plan.architecture:
        command += ["--random", run.plan.architecture, "--keep-checkpoint", str(run.checkpoint)]
    else:
        command += [str(run.checkpoint), "--precision", run.plan.precisions[0]]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    run.results.put(seconds=time.perf_counter() - start, max_bucket=run.max_bucket)


PARTS = {
    "machine": "benchmark",
    "prepare": "benchmark",
    "correctness": "correctness",
    "ceilings": "rates",
    "encoder": "rates",
    "host": "decoding",
    "nvjpeg": "decoding",
    "ensemble": "serving",
}
"""The module of each part, imported when it runs: none fails for want of what only another one needs."""


def _end(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)  # so that a server started here is stopped


@click.command()
@click.argument("part", type=click.Choice([*PARTS, "summary"]))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the results.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of the repository.")
@click.option("--device", type=click.Choice(list(PLANS)), default="cuda", show_default=True)
@click.option("--seconds", default=300.0, show_default=True, help="The part begins nothing after them.")
@click.option("--failed", help="Only note that the part has failed, and why.")
def main(part: str, output: Path, work: Path, device: str, seconds: float, failed: str | None) -> None:
    """Runs a PART and adds what it finds to the results; `summary` prints the short form of all."""
    signal.signal(signal.SIGTERM, _end)
    results = Results(output, part)
    if part == "summary":
        click.echo("\n".join(summary(results.content)))
    elif failed:
        results.put(failed=failed)
    else:
        results.put(began=time.strftime("%H:%M:%S"))
        run = Run(device, work, time.monotonic() + seconds, PLANS[device], results)
        getattr(import_module(f"tritonclip_server.gpu.{PARTS[part]}"), part)(run)


if __name__ == "__main__":
    main()
