"""Worker process that decodes images whose cost their size does not bound.

The process limits its own memory, and the kernel ends it when a step takes too much CPU time. It reads files
from the standard input and writes replies to the standard output; `clip_worker_pool` is the other end. When
the model ends, the input ends, and so does the process.

    python clip_worker.py OPTIONS    OPTIONS are the fields of `WorkerOptions` as JSON
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from struct import Struct
from typing import IO, Any, NamedTuple

from PIL import AvifImagePlugin, Image

from clip_geometry import ProcessorSettings
from clip_pillow import STRIP_PIXELS, ImageError, PillowDecoder

FILE = Struct("<Q")
"""Head of a file: its size. The content follows."""
GRANT = Struct("<d")
"""Answer to an opened file: the CPU seconds that decoding it may take."""
REPLY = Struct("<cQQd")
"""A reply: its kind and three numbers.

- `OPENED` answers a file: 0, its pixels, the CPU seconds that decoding it should take at most.
- `DECODED` answers a grant: width, height, the CPU seconds used. width x height x 3 bytes follow, of the
  upright image, resized and cropped if the image processor is Pillow.
- `WRONG` ends the work on a file: 0, the size of the error text, 0. The text follows.
"""
OPENED, DECODED, WRONG = b"O", b"D", b"W"

OPEN_CPU_S = 0.5
"""CPU time to read the header of a file, and the part of decoding that does not depend on its size."""
MAX_IMAGE_CPU_S = 10.0
"""Limit on the CPU time to decode an image."""
BYTE_CPU_S, PYTHON_BYTE_CPU_S = 250e-9, 1e-6
PIXEL_CPU_S, SLOW_PIXEL_CPU_S = 50e-9, 150e-9
"""CPU time per byte and per pixel, several times that of honest files."""
SLOW_FORMATS = ("AVIF", "HEIF", "JPEG2000", "WEBP")
PYTHON_DECODERS = ("bmp_rle", "ppm", "ppm_plain")
"""Decoders of Pillow that are written in Python."""
MAX_PYTHON_PIXELS = 40_000_000
"""Limit on the pixels of an image for `PYTHON_DECODERS`."""


class WorkerOptions(NamedTuple):
    """Options of a worker process; see `PillowDecoder`."""

    settings: dict[str, Any]
    formats: list[str]
    max_pixels: int
    draft: float
    memory_mib: int
    """Limit on the memory of the process (parameter `worker_memory_mib`)."""


class Worker:
    """Answers files until the input ends."""

    def __init__(self, options: WorkerOptions, files: IO[bytes], replies: IO[bytes]) -> None:
        self._files, self._replies, self._memory_mib = files, replies, options.memory_mib
        settings = ProcessorSettings.from_dict(options.settings)
        self._decoder = PillowDecoder(settings, options.formats, options.max_pixels, options.draft)

    def run(self) -> None:
        """Answer files."""
        while head := self._files.read(FILE.size):
            try:
                self._answer(FILE.unpack(head)[0])
            except ImageError as error:
                self._fail(str(error))
            except MemoryError:
                self._fail(self._out_of_memory("more"))

    def _answer(self, size: int) -> None:
        encoded = self._files.read(size)
        _limit_cpu(OPEN_CPU_S)
        image = self._decoder.open(encoded)
        pixels = image.width * image.height
        in_python = bool(image.tile) and image.tile[0][0] in PYTHON_DECODERS  # type: ignore[attr-defined]
        if in_python and pixels > MAX_PYTHON_PIXELS:
            raise ImageError(
                f"is too large: {image.width} x {image.height} pixels, and the limit for this encoding of "
                f"{image.format} is {MAX_PYTHON_PIXELS}; send it as PNG"
            )
        needed_mib = pixels * _pixel_bytes(image) >> 20
        if needed_mib > self._memory_mib:
            raise ImageError(self._out_of_memory(f"about {needed_mib} MiB"))
        _limit_cpu(0)
        bytes_s = size * (PYTHON_BYTE_CPU_S if in_python else BYTE_CPU_S)
        pixels_s = pixels * (SLOW_PIXEL_CPU_S if image.format in SLOW_FORMATS else PIXEL_CPU_S)
        self._reply(REPLY.pack(OPENED, 0, pixels, min(MAX_IMAGE_CPU_S, OPEN_CPU_S + bytes_s + pixels_s)))
        _limit_cpu(GRANT.unpack(self._files.read(GRANT.size))[0])
        started_s = time.process_time()
        finished = self._decoder.finish(image)
        _limit_cpu(0)
        self._reply(REPLY.pack(DECODED, *finished.size, time.process_time() - started_s))
        for strip in _strips(finished):
            self._reply(strip)

    def _out_of_memory(self, needed: str) -> str:
        return (
            f"needs {needed} of memory to decode, the limit is {self._memory_mib} MiB (worker_memory_mib); "
            "make it smaller, or send it as a baseline JPEG"
        )

    def _fail(self, text: str) -> None:
        _limit_cpu(0)
        message = text.encode()
        self._reply(REPLY.pack(WRONG, 0, len(message), 0), message)

    def _reply(self, *parts: bytes) -> None:
        for part in parts:
            self._replies.write(part)
        self._replies.flush()


def _strips(image: Image.Image) -> Iterator[bytes]:
    """Yield the pixels of an RGB image in parts, because a copy of them all may need too much memory."""
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height))).tobytes()


def _pixel_bytes(image: Image.Image) -> int:
    """Return the memory per pixel that decoding takes.

    Decoders in C report a lack of memory as damage, so it must be foreseen.
    """
    bands = len(image.getbands())
    planes = 4 + 2 * bands
    needed = {"AVIF": 14, "HEIF": 16, "WEBP": 20, "JPEG2000": 4 + 6 * bands, "JPEG": planes, "MPO": planes}
    return needed.get(image.format or "", 8)


def _limit_cpu(seconds: float) -> None:
    """Let the kernel end this process after it has used so much CPU time; 0 removes the limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def main() -> None:
    """Run the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the whole group
    options = WorkerOptions(**json.loads(sys.argv[1]))
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not garble the replies
    warnings.simplefilter("ignore")  # of odd tags, which would only fill the log
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # as many images as cores are decoded at once
    limit = options.memory_mib << 20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Worker(options, sys.stdin.buffer, replies).run()


if __name__ == "__main__":
    main()
