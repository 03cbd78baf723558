"""Rates of JPEG decoding alone, on the CPU as in image_preprocess."""

from __future__ import annotations

import io
import itertools
import json
import multiprocessing
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tritonclip_server.gpu.context import PartContext
from tritonclip_server.repository.image_settings import TORCHVISION
from tritonclip_server.repository.version_code import import_from_versions


def photographs(count: int, width: int = 640, height: int = 480) -> list[bytes]:
    """Return JPEG files of random pictures with the spectrum of photographs, equal in every call."""
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1 / np.maximum(frequency, 1 / width) ** 1.4  # files of 90 kB
    files = []
    for _ in range(count):
        phases = np.exp(2j * np.pi * random.random((3, *amplitude.shape)))
        picture = np.fft.irfft2(phases * amplitude, (height, width)).transpose(1, 2, 0)
        picture = (128 + 50 * picture / picture.std()).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def host(context: PartContext) -> None:
    """Measure decoding, resizing and cropping on the CPU, as in image_preprocess."""
    files = photographs(context.plan.photographs)
    context.results.put(mean_file_bytes=round(statistics.mean(map(len, files))))
    for processes, threads in context.plan.decoders:
        if not context.has_time(context.plan.seconds + 5):
            return
        rate = decoding_rate(context.repository, files, processes, threads, context.plan.seconds)
        context.results.add("decoding", processes=processes, threads=threads, images_s=rate)


def decoding_rate(
    repository: Path, files: list[bytes], processes: int, threads: int, seconds: float
) -> float:
    """Return images/s of several processes, each with several threads, that decode at the same time."""
    context = multiprocessing.get_context("spawn")
    ready, begin = context.Barrier(processes + 1), context.Event()
    counts = context.SimpleQueue()
    arguments = (repository / "image_preprocess" / "1", files, threads, seconds, ready, begin, counts)
    workers = [context.Process(target=_decode, args=arguments, daemon=True) for _ in range(processes)]
    for worker in workers:
        worker.start()
    ready.wait(timeout=30)
    begin.set()
    rate = sum(counts.get() for _ in workers)
    for worker in workers:
        worker.join()
    return float(rate)


def _decode(
    directory: Path, files: list[bytes], threads: int, seconds: float, ready: Any, begin: Any, counts: Any
) -> None:
    geometry = import_from_versions("clip_geometry", directory)
    images = import_from_versions("clip_images", directory)
    torch.set_num_threads(1)
    settings = json.loads((directory / "processor.json").read_text(encoding="utf-8"))
    settings["image_processor"] = TORCHVISION
    decoder = images.ImageDecoder(geometry.ProcessorSettings.from_dict(settings), ["JPEG"], 89478485)
    decoder.decode(files[0])
    done = [0] * threads
    ready.wait(timeout=30)
    begin.wait()
    start = time.perf_counter()

    def work(number: int) -> None:
        for file in itertools.cycle(files[number % len(files) :] + files[: number % len(files)]):
            decoder.decode(file)
            done[number] += 1
            if time.perf_counter() - start >= seconds:
                return

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    counts.put(sum(done) / (time.perf_counter() - start))
