"""Worker processes that decode images, started when they are needed and replaced when they end.

A file that costs too much CPU time or memory, or that crashes a decoder, ends its worker process and not the
model.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import select
import signal
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clip_common.groups import RequestError
from clip_common.python import find_python, python_variables
from clip_pillow import ImageError
from clip_work import RequestWork, out_of_memory
from clip_worker import FILE, GRANT, OPEN_CPU_S, REPLY, WRONG, WorkerOptions

POLL_MS = 250
"""Time between two looks at the caller while a worker works."""
PIPE_BYTES = 1 << 20
PURPOSE = "image_preprocess runs it to decode images in worker processes"
_F_SETPIPE_SZ = 1031
_CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL}

Hold = Callable[[int], contextlib.AbstractContextManager[None]]
"""Waits for its turn to decode an image of so many pixels."""
Place = Callable[[np.ndarray], np.ndarray]
"""Makes pixel values of a decoded image, uint8 [height, width, 3], before the turn ends."""


class WorkerPool:
    """Decodes images in worker processes, each of which decodes one image at a time.

    Args:
        options: Options of the processes.
        hold: Waits for its turn to decode an image of so many pixels.
    """

    def __init__(self, options: WorkerOptions, hold: Hold) -> None:
        self._command = [find_python(PURPOSE), "-S", str(Path(__file__).with_name("clip_worker.py"))]
        self._command.append(json.dumps(options._asdict()))
        self._hold = hold
        self._idle: deque[Worker] = deque()

    def close(self) -> None:
        """End the idle processes."""
        while self._idle:
            self._idle.pop().end()

    def decode(self, encoded: bytes, work: RequestWork, place: Place) -> np.ndarray:
        """Decode an image.

        Args:
            encoded: The content of the file.
            work: Work on its request.
            place: Does the steps after `PillowDecoder.finish`.

        Returns:
            What `place` returns.

        Raises:
            ImageError: The file cannot be used, or costs too much.
            RequestError: The images of the request cost too much.
            RejectedError: The caller no longer waits.
        """
        worker = self._take()
        try:
            pixels = worker.decode(encoded, work, self._hold, place)
        except BaseException as error:
            if not isinstance(error, ImageError):
                worker.end()
            raise
        finally:
            self._idle.append(worker)  # `_take` removes it if it has ended
        return pixels

    def _take(self) -> Worker:
        with contextlib.suppress(IndexError):
            while True:
                worker = self._idle.pop()
                if worker.is_running:
                    return worker
                worker.end()
        return self._start()

    def _start(self) -> Worker:
        process = subprocess.Popen(
            self._command, env=python_variables(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return Worker(process)


class Worker:
    """A worker process.

    Args:
        process: Runs `clip_worker`.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        assert process.stdin
        assert process.stdout
        self._input, self._output = process.stdin, process.stdout
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # the user's limit on pipes is reached
                fcntl.fcntl(pipe, _F_SETPIPE_SZ, PIPE_BYTES)
        self._poll = select.poll()
        self._poll.register(process.stdout, select.POLLIN)

    @property
    def is_running(self) -> bool:
        """Whether the process can take a file."""
        return self._process.poll() is None

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._input, self._output):
            with contextlib.suppress(OSError):  # it cannot be flushed
                pipe.close()

    def decode(self, encoded: bytes, work: RequestWork, hold: Hold, place: Place) -> np.ndarray:
        """Decode an image; see `WorkerPool.decode`."""
        self._send(FILE.pack(len(encoded)), encoded)
        _, pixels, wanted_s = self._reply(work, OPEN_CPU_S)
        work.take_pixels(pixels)
        with hold(pixels):
            granted_s = min(wanted_s, work.cpu_left_s)
            self._send(GRANT.pack(max(granted_s, 0.001)))  # 0 would be no limit
            width, height, used_s = self._reply(work, granted_s, wanted_s)
            work.take_cpu(used_s)
            rgb = np.empty((height, width, 3), np.uint8)
            if self._output.readinto(rgb.data) < rgb.size:  # type: ignore[attr-defined]
                raise self._error(0, 0)
            return place(rgb)

    def _send(self, *parts: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # the reply says why the process ended
            for part in parts:
                self._input.write(part)
            self._input.flush()

    def _reply(self, work: RequestWork, granted_s: float, wanted_s: float = 0) -> tuple[int, int, float]:
        while not self._poll.poll(POLL_MS):
            work.check_caller()
        head = self._output.read(REPLY.size)
        if len(head) < REPLY.size:
            raise self._error(granted_s, wanted_s)
        kind, first, second, seconds = REPLY.unpack(head)
        if kind == WRONG:
            raise ImageError(self._read(second).decode())
        return first, second, seconds

    def _read(self, size: int) -> bytes:
        data = self._output.read(size)
        if len(data) < size:
            raise self._error(0, 0)
        return data

    def _error(self, granted_s: float, wanted_s: float) -> Exception:
        """Return the error of a process that has ended."""
        code = self._process.wait()
        if code == -signal.SIGPROF and granted_s < wanted_s:
            return RequestError(
                "request too large: decoding its images takes too much CPU time (max_worker_cpu_s); split "
                "the request, or send JPEGs"
            )
        if code == -signal.SIGPROF:
            return ImageError(
                f"takes too much CPU time to decode: more than {granted_s:.1f} s, the limit for its size; "
                "re-encode it, for example as a baseline JPEG"
            )
        if code == -signal.SIGKILL:
            return out_of_memory()
        if code in _CRASHES:
            return ImageError(f"cannot be decoded: it crashes the decoder ({signal.Signals(-code).name})")
        return RuntimeError(f"a worker process of image_preprocess ended with exit code {code}")
