"""Contenders, the processes that are measured. Each starts once, and is paused with SIGSTOP between its runs.

A pause is free. A restart would load torch and a model for each of some twenty measurements per round, and
would measure cold caches. A paused process also cannot spin: LitServe's workers poll their queue, and OpenMP
threads spin after a pass. All contenders stay in memory, about 5 GB for ViT-B/32.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions, free_port

START_TIMEOUT_S = 300.0
END_S = 5.0


class ContenderError(RuntimeError):
    """A contender did not start, or it exited. The message contains the end of its log."""


class Contender(ABC):
    """A process group that is measured.

    Attributes:
        name: Name in measurements.
        ready_s: Seconds from launch to readiness.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready_s = 0.0
        self._group: int | None = None

    def start(self) -> None:
        """Start it, wait until it is ready, and pause it."""
        begin = time.perf_counter()
        self._group = self._launch()
        self._await_ready()
        self.ready_s = time.perf_counter() - begin
        self.pause()

    def pause(self) -> None:
        """Pause the process group."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the process group."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Terminate the process group in any state."""
        if self._group is None:
            return
        self.resume()
        self._end()
        self._group = None

    @abstractmethod
    def _launch(self) -> int:
        """Start the processes, and return their group."""

    @abstractmethod
    def _await_ready(self) -> None:
        """Wait until it answers."""

    @abstractmethod
    def _end(self) -> None:
        """Terminate the processes."""

    def _signal(self, number: signal.Signals) -> None:
        if self._group is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._group, number)


class TritonContender(Contender):
    """This system: the embedded Triton on a prepared repository."""

    def __init__(self, repository: Path) -> None:
        super().__init__("triton")
        self.server = EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0))

    def _launch(self) -> int:
        self.server.start()
        return self.server.pid

    def _await_ready(self) -> None:
        """Return at once: the launch waits for readiness."""

    def _end(self) -> None:
        self.server.stop()


class PythonContender(Contender):
    """A module of `benchmarks.peers` in a separate process.

    Args:
        name: Name of the contender.
        module: Name of the module.
        arguments: Command-line arguments.
        log: File for its standard error.
    """

    def __init__(self, name: str, module: str, arguments: Sequence[object], log: Path) -> None:
        super().__init__(name)
        self._command = [
            sys.executable,
            "-m",
            f"tritonclip_server.benchmarks.peers.{module}",
            *map(str, arguments),
        ]
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def _launch(self) -> int:
        environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                self._command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=self._output(),
                stderr=log,
                text=True,
                start_new_session=True,
            )
        return self._process.pid

    def _output(self) -> int:
        return subprocess.DEVNULL

    def _end(self) -> None:
        process = self.process
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        self._signal(signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    @property
    def process(self) -> subprocess.Popen[str]:
        """Process of the contender, which must have been started."""
        if self._process is None:
            raise ContenderError(f"{self.name} was not started")
        return self._process

    def failure(self) -> ContenderError:
        """Return an error with the end of its log."""
        return ContenderError(f"{self.name} failed:\n{self._log.read_text(encoding='utf-8')[-2000:]}")


class HttpContender(PythonContender):
    """An HTTP server on a free port, with `/health` and `/predict`."""

    def __init__(self, name: str, module: str, model: str, further: Sequence[object], log: Path) -> None:
        port = free_port("127.0.0.1")
        super().__init__(name, module, [model, port, *further], log)
        self.url = f"http://127.0.0.1:{port}"

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise self.failure()
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as reply:
                return bool(reply.status == 200)
        except OSError:  # includes the errors of urllib
            return False


class WorkerContender(PythonContender):
    """A worker process that takes commands; see `peers.worker`."""

    def _output(self) -> int:
        return subprocess.PIPE

    def _await_ready(self) -> None:
        self._read()

    def command(self, **content: Any) -> dict[str, float]:
        """Send a command, and return its result."""
        stdin = self.process.stdin
        assert stdin is not None
        stdin.write(json.dumps(content) + "\n")
        stdin.flush()
        return self._read()

    def _read(self) -> dict[str, float]:
        stdout = self.process.stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise self.failure()
        found: dict[str, float] = json.loads(line)
        return found


def make_contenders(
    wanted: Iterable[str], *, model: str, repository: Path, photos: Path, labels: Path, logs: Path
) -> Mapping[str, Contender]:
    """Create contenders without starting them.

    Args:
        wanted: Names of contenders; unknown names are ignored.
        model: Checkpoint for transformers: a directory or a hub id.
        repository: Model repository of that checkpoint.
        photos: Folder of JPEG files.
        labels: JSON file with a list of labels.
        logs: Folder for the logs.
    """
    everyone: list[Contender] = [
        TritonContender(repository),
        WorkerContender("parts", "parts_worker", [repository, photos], logs / "parts.log"),
        WorkerContender("pipeline", "pipeline_worker", [model, photos, labels], logs / "pipeline.log"),
        HttpContender("fastapi", "fastapi_server", model, [], logs / "fastapi.log"),
        HttpContender("litserve-1", "litserve_server", model, [1], logs / "litserve-1.log"),
        HttpContender("litserve-2", "litserve_server", model, [2], logs / "litserve-2.log"),
    ]
    names = set(wanted)
    return {contender.name: contender for contender in everyone if contender.name in names}
