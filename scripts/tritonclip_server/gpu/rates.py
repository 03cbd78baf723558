"""Peak rates of the device, and the rate of the vision encoder compared with them."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from tritonclip_server.gpu.context import PartContext, Results
from tritonclip_server.gpu.correctness import Encoders, buckets, capture_graph, load_encoders, random_pixels


def median_seconds(call: Callable[[], Any], device: str, seconds: float) -> float:
    """Return the median time of a call after a warm-up, by CUDA events if it runs on a GPU."""
    for _ in range(3):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    if device == "cuda":
        torch.cuda.synchronize()
    while time.perf_counter() < end or len(times) < 3:
        if device == "cuda":
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            call()
            last.record()
            last.synchronize()
            times.append(first.elapsed_time(last) / 1e3)
        else:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def ceilings(context: PartContext) -> None:
    """Measure the peak rates of the device: matrix products, copies on it, and copies to it."""
    side, device = context.plan.matrix, context.device
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        took = median_seconds(lambda a=left, b=right: a @ b, device, context.plan.seconds / 2)  # type: ignore[misc]
        context.results.add("products", dtype=str(dtype).removeprefix("torch."), flop_s=2 * side**3 / took)
    source = torch.randint(0, 256, (context.plan.copy_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    took = median_seconds(lambda: target.copy_(source), device, context.plan.seconds / 2)
    context.results.put(copy_bytes_s=2 * context.plan.copy_bytes / took)
    if device == "cuda":
        host = torch.randint(0, 256, (1 << 28,), dtype=torch.uint8).pin_memory()
        part = target[: 1 << 28]
        took = median_seconds(lambda: part.copy_(host, non_blocking=True), device, context.plan.seconds / 2)
        context.results.put(pinned_to_device_bytes_s=len(host) / took)


def product_rate(results: Results, dtype: str) -> float | None:
    """Return the measured rate of matrix products in FLOP/s, or None if it was not measured."""
    rates = [row["flop_s"] for row in results.rows("ceilings", "products") if row["dtype"] == dtype]
    return rates[0] if rates else None


def nominal_flop(settings: dict[str, Any]) -> int:
    """Count the operations of the matrix products of a vision tower per image, attention included.

    A product of [M, K] and [K, N] counts 2 M N K.

    Args:
        settings: `vision.json` of a prepared repository.
    """
    width, inner = settings["hidden_size"], settings["intermediate_size"]
    patches = (settings["image_size"] // settings["patch_size"]) ** 2
    tokens = patches + 1
    block = tokens * width * (3 * width + width + 2 * inner) + 2 * tokens**2 * width
    patch = patches * width * settings["num_channels"] * settings["patch_size"] ** 2
    products = patch + settings["num_hidden_layers"] * block + width * settings["projection_dim"]
    return int(2 * products)


def executed_flop(forward: Callable[[Any], Any], pixels: Any) -> float:
    """Count the operations per image that a pass executes. It may skip results that are not read."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward(pixels)
    return counter.get_total_flops() / len(pixels)


def _flop_per_image(encoders: Encoders, ready: Any, nominal: int) -> float:
    """Return the executed operations, or the nominal ones if torch cannot count its kernels."""
    try:
        flop = executed_flop(encoders.forward, ready)
    except Exception:  # The counter raises errors of many kinds; none should end the part.
        return nominal
    return flop if 0.5 * nominal < flop <= nominal else nominal


def encoder(context: PartContext) -> None:
    """Measure the vision encoder at every bucket: eager, as a CUDA graph, and as the model calls it."""
    settings = json.loads((context.repository / "vision_encoder" / "1" / "vision.json").read_text())
    nominal = nominal_flop(settings)
    context.results.put(nominal_flop_per_image=nominal)
    random = np.random.default_rng()
    for number, precision in enumerate(context.plan.precisions):
        encoders = load_encoders(context, precision)
        # On a GPU the 16-bit rate is the peak for every precision. A CPU may be slower in 16 bits.
        rate = product_rate(context.results, "bfloat16" if context.device == "cuda" else precision)
        sizes = buckets(context.max_bucket * context.plan.buckets)
        for count in sizes if number < 2 else sizes[-1:]:
            if not context.has_time(5):
                return
            pixels = random_pixels(random, count, encoders.side)
            ready = torch.from_numpy(pixels).to(context.device)
            flop = _flop_per_image(encoders, ready, nominal)
            for path, call in _timed_paths(context, encoders, pixels, ready):
                with torch.inference_mode():
                    took = median_seconds(call, context.device, context.plan.seconds / 5)
                done = count * flop / took
                context.results.add(
                    "passes",
                    precision=precision,
                    path=path,
                    count=count,
                    images_s=count / took,
                    flop_an_image=flop,
                    flop_s=done,
                    share=done / rate if rate else None,
                )


def _timed_paths(
    context: PartContext, encoders: Encoders, pixels: np.ndarray, ready: Any
) -> Iterator[tuple[str, Callable[[], Any]]]:
    yield "eager", lambda: encoders.forward(ready)
    if context.device == "cuda":
        with torch.inference_mode():
            replay, _ = capture_graph(encoders.forward, ready)
        yield "graph", replay
    yield "encode", lambda: encoders.encode_images(pixels)
