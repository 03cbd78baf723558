"""The command that `gpu_benchmark.sh` runs for each part: `python -m tritonclip_server.gpu.benchmark PART`.

Each part runs in a separate process. It writes every figure to `results.json` and `report.md` at once, so no
figure is lost if the part runs out of time. No part needs a network.
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
from tritonclip_server.gpu.context import PLANS, PartContext, Results
from tritonclip_server.gpu.report import summary


def machine(context: PartContext) -> None:
    """Record hardware and versions."""
    with contextlib.suppress(OSError):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        gpu = subprocess.run(query, capture_output=True, text=True, check=False)
        context.results.put(gpu=gpu.stdout.strip() or "none")
    context.results.put(
        cpu=cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
        shared_memory_gib=round(shutil.disk_usage("/dev/shm").total / 2**30, 1),
    )
    for name in ("torch", "transformers", "numpy", "pillow", "safetensors", "tokenizers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            context.results.put(**{name: importlib.metadata.version(name)})
    import torch

    context.results.put(torch_cuda=torch.version.cuda, cuda_available=torch.cuda.is_available())


def prepare(context: PartContext) -> None:
    """Write the model repository."""
    command = [sys.executable, "-m", "tritonclip_server", "prepare", "--output", str(context.repository)]
    command += [
        "--set",
        "image_preprocess.image_formats=JPEG",
    ]  # Pillow on this machine may lack other formats.
    for setting in os.environ.get("SETTINGS", "").split():
        command += ["--set", setting]
    if context.plan.max_bucket:
        for model in ("vision_encoder", "text_encoder"):
            command += ["--set", f"{model}.max_bucket={context.plan.max_bucket}"]
    if context.plan.architecture:
        command += ["--random", context.plan.architecture, "--keep-checkpoint", str(context.checkpoint)]
    else:
        command += [str(context.checkpoint), "--precision", context.plan.precisions[0]]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    context.results.put(seconds=time.perf_counter() - start, max_bucket=context.max_bucket)


PARTS = {
    "machine": "benchmark",
    "prepare": "benchmark",
    "correctness": "correctness",
    "ceilings": "rates",
    "encoder": "rates",
    "host": "decoding",
    "ensemble": "serving",
}
"""Module of each part. It is imported when the part runs, so no part needs the packages of another."""


def _exit_on_signal(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)  # lets the context manager of a server stop it


@click.command()
@click.argument("part", type=click.Choice([*PARTS, "summary"]))
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for the results.")
@click.option(
    "--work", type=click.Path(path_type=Path), required=True, help="Folder for the model repository."
)
@click.option(
    "--device", type=click.Choice(list(PLANS)), default="cuda", show_default=True, help="Device to measure."
)
@click.option("--seconds", default=300.0, show_default=True, help="Start no measurement after this time.")
@click.option("--failed", help="Only record that the part failed, with this reason.")
def main(part: str, output: Path, work: Path, device: str, seconds: float, failed: str | None) -> None:
    """Run a PART and add its figures to the results, or print the `summary` of all parts."""
    signal.signal(signal.SIGTERM, _exit_on_signal)
    results = Results(output, part)
    if part == "summary":
        click.echo("\n".join(summary(results.content)))
    elif failed:
        results.put(failed=failed)
    else:
        results.put(began=time.strftime("%H:%M:%S"))
        context = PartContext(device, work, time.monotonic() + seconds, PLANS[device], results)
        getattr(import_module(f"tritonclip_server.gpu.{PARTS[part]}"), part)(context)


if __name__ == "__main__":
    main()
