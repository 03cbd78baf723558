"""Rates of the ensemble and of its two most expensive models on the embedded Triton, by perf_analyzer."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import click

from tritonclip_server.benchmarks.perf_analyzer import (
    PerfAnalyzerError,
    install,
    measure,
    write_image_requests,
)
from tritonclip_server.gpu.context import LABELS, PartContext, parameter_pattern
from tritonclip_server.gpu.decoding import photographs
from tritonclip_server.paths import CHECKOUT
from tritonclip_server.serving.launcher import EmbeddedTriton, LaunchError, ServerOptions

MOST_PIXELS = 2_000
"""Images per measurement of `image_preprocess`: perf_analyzer keeps its answers as text, 0.5 MB per image."""
STOP_S = 25
"""Time reserved to stop a server."""


def ensemble(context: PartContext) -> None:
    """Measure the ensemble, decoding and the vision encoder, all through Triton."""
    given = os.environ.get("PERF_ANALYZER")
    program = Path(given) if given else install(CHECKOUT / "build" / "perf_analyzer")
    config = context.repository / "image_preprocess" / "config.pbtxt"
    shipped = config.read_text(encoding="utf-8")
    inputs = write_inputs(context)
    flags = {"allow-gpu-metrics": "false"}
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, drain_timeout_s=3, flags=flags)
    for setting in context.plan.instances:
        if not context.has_time(STOP_S + 10 * context.plan.seconds):
            return
        config.write_text(with_instances(shipped, *setting), encoding="utf-8")
        try:
            start = time.perf_counter()
            with EmbeddedTriton(context.repository, options, on_line=click.echo) as server:
                info = re.findall(r"^tritonclip_model_info\{(.*)\} 1$", server.metrics(), re.MULTILINE)
                ready_s = time.perf_counter() - start
                context.results.add("servers", decoders=decoders(setting), ready_s=ready_s, models=info)
                measure_loads(context, setting, program, server.grpc_url, inputs)
        except (LaunchError, PerfAnalyzerError) as error:
            context.results.add("failures", decoders=decoders(setting), error=str(error))


def decoders(setting: tuple[int, int]) -> str:
    """Describe instances and threads of image_preprocess, such as `8 x 2`."""
    return f"{setting[0]} x {setting[1] or 'one per core'}"


def measure_loads(
    context: PartContext,
    setting: tuple[int, int],
    program: Path,
    grpc_url: str,
    inputs: dict[tuple[str, int], Path],
) -> None:
    """Measure the ensemble at all loads, image_preprocess at some, vision_encoder in the first setting."""
    loads = [("clip_zero_shot", *load) for load in context.plan.loads]
    loads += [("image_preprocess", *load) for load in context.plan.loads[:2]]
    if setting == context.plan.instances[0]:
        loads += [("vision_encoder", *load) for load in context.plan.loads[:4]]
    for model, callers, images in loads:
        if not context.has_time(STOP_S + 2 * context.plan.seconds):
            return

        def send(requests: int, model: str = model, callers: int = callers, images: int = images) -> float:
            return measure(
                program,
                model=model,
                grpc_url=grpc_url,
                inputs=inputs.get((model, images), Path("random")),  # perf_analyzer generates random inputs
                shapes=_shapes(context, model, images),
                callers=callers,
                requests=requests,
            ).requests_per_s

        most = max(1, MOST_PIXELS // images) if model == "image_preprocess" else None
        rate = steady_rate(send, callers, context.plan.seconds, most)
        context.results.add(
            "loads",
            model=model,
            decoders=decoders(setting),
            callers=callers,
            images=images,
            requests_s=rate,
            images_s=rate * images,
            mean_latency_ms=1e3 * callers / rate,
        )


def steady_rate(send: Callable[[int], float], callers: int, seconds: float, most: int | None = None) -> float:
    """Return the requests/s of a load that lasts about `seconds`.

    Args:
        send: Sends a number of requests and returns requests/s. It is called twice; the first call is a
            warm-up.
        callers: Requests in flight; at least twice as many are sent.
        seconds: Duration of the second call.
        most: Limit on the requests of the second call, if it is at least twice the callers.
    """
    rate = send(2 * callers)
    wanted = int(rate * seconds)
    return send(max(2 * callers, wanted if most is None else min(wanted, most)))


def write_inputs(context: PartContext) -> dict[tuple[str, int], Path]:
    """Write the requests for perf_analyzer; return the files by model and images per request."""
    labels = [label.encode() for label in LABELS]
    files, inputs = photographs(context.plan.photographs), {}
    for count in {images for _, images in context.plan.loads}:
        alone, whole = (context.work / f"{name}-{count}.json" for name in ("images", "images-and-labels"))
        write_image_requests(alone, files, count)
        write_image_requests(whole, files, count, labels)
        inputs["image_preprocess", count], inputs["clip_zero_shot", count] = alone, whole
    return inputs


def _shapes(context: PartContext, model: str, images: int) -> list[str]:
    if model == "vision_encoder":
        settings = json.loads((context.repository / model / "1" / "vision.json").read_text())
        return [f"pixel_values:{images},3,{settings['image_size']},{settings['image_size']}"]
    return [f"image:{images}", f"labels:{len(LABELS)}"] if model == "clip_zero_shot" else [f"image:{images}"]


def with_instances(config: str, count: int, threads: int) -> str:
    """Change the number of instances, and of threads per instance, in a prepared `config.pbtxt`.

    It edits text, because the process that starts the server has few packages.
    """
    config, changed = re.subn(r"(instance_group \{\s*count: )\d+", rf"\g<1>{count}", config)
    config, more = re.subn(parameter_pattern("threads"), rf"\g<1>{threads}\g<3>", config)
    if (changed, more) != (1, 1):
        raise ValueError("config.pbtxt has no instance_group with a count, or no parameter 'threads'")
    return config
