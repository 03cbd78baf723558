"""Contenders, the processes that are measured. Each starts once, and is paused with SIGSTOP between its runs.

A pause is free. A restart would load torch and a model for each of some twenty measurements per round, and
would measure cold caches. A paused process also cannot spin: LitServe's workers poll their queue, and OpenMP
threads spin after a pass. All contenders stay in memory.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tritonclip_server.benchmarks.serving.load import EMBEDDINGS_MODEL
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions, free_port

START_TIMEOUT_S = 600.0
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


class ServerContender(Contender):
    """A server that `load` can send requests to.

    Attributes:
        api: Its API, one of `load.APIS`.
    """

    api: str

    @property
    @abstractmethod
    def target(self) -> str:
        """URL for requests, or `host:port` for gRPC."""

    @abstractmethod
    def failure(self) -> ContenderError:
        """Return an error with the end of its log."""


class TritonContender(ServerContender):
    """This system: the embedded Triton on a prepared repository."""

    api = "grpc"

    def __init__(self, name: str, repository: Path) -> None:
        super().__init__(name)
        self.server = EmbeddedTriton(repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0))

    @property
    def target(self) -> str:
        """See `ServerContender`."""
        return self.server.grpc_url

    def failure(self) -> ContenderError:
        """See `ServerContender`."""
        return ContenderError(f"{self.name} failed:\n" + "\n".join(self.server.log))

    def _launch(self) -> int:
        self.server.start()
        return self.server.pid

    def _await_ready(self) -> None:
        """Return at once: the launch waits for readiness."""

    def _end(self) -> None:
        self.server.stop()


class ProcessContender(Contender):
    """A program in a separate process.

    Args:
        name: Name of the contender.
        command: Program and arguments.
        log: File for its standard error.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        super().__init__(name)
        self._command = command
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def _launch(self) -> int:
        environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "DO_NOT_TRACK": "1"}
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


class HttpContender(ProcessContender, ServerContender):
    """An HTTP server on a free port, with `/health`.

    Args:
        name: Name of the contender.
        command: Returns program and arguments for a port.
        log: File for its standard error.
        api: Its API, one of `load.APIS`.
        path: Path for requests.
    """

    def __init__(
        self, name: str, command: Callable[[int], Sequence[str]], log: Path, api: str, path: str
    ) -> None:
        port = free_port("127.0.0.1")
        super().__init__(name, command(port), log)
        self.url, self.api, self._path = f"http://127.0.0.1:{port}", api, path

    @property
    def target(self) -> str:
        """See `ServerContender`."""
        return f"{self.url}{self._path}"

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


class WorkerContender(ProcessContender):
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
    wanted: Iterable[str],
    *,
    model: str,
    repositories: Mapping[str, Path],
    infinity: Path | None,
    labels: Path,
    logs: Path,
) -> Mapping[str, Contender]:
    """Create contenders without starting them.

    Args:
        wanted: Names of contenders; unknown names are ignored.
        model: Checkpoint for transformers: a directory or a hub id.
        repositories: Model repositories of that checkpoint, by name of the contender.
        infinity: Python that has infinity, or None if it is not compared.
        labels: JSON file with a list of labels.
        logs: Folder for the logs.
    """
    peers: list[Contender] = [
        WorkerContender("parts", _peer("parts_worker", repositories["triton"]), logs / "parts.log"),
        WorkerContender("pipeline", _peer("pipeline_worker", model, labels), logs / "pipeline.log"),
        _form_server("fastapi", partial(_peer, "fastapi_server", model), logs),
    ]
    for workers in (1, 2):
        command = partial(_peer, "litserve_server", model, workers)
        peers.append(_form_server(f"litserve-{workers}", command, logs))
    if infinity is not None:
        peers.append(
            HttpContender(
                "infinity",
                partial(_infinity_command, infinity, model),
                logs / "infinity.log",
                "embeddings",
                "/embeddings",
            )
        )
    systems = [TritonContender(name, repository) for name, repository in repositories.items()]
    names = set(wanted)
    return {contender.name: contender for contender in [*systems, *peers] if contender.name in names}


def _form_server(name: str, command: Callable[[int], Sequence[str]], logs: Path) -> HttpContender:
    return HttpContender(name, command, logs / f"{name}.log", "form", "/predict")


def _peer(module: str, *arguments: object) -> list[str]:
    """Return the command of a module of `benchmarks.peers`."""
    return [sys.executable, "-m", f"tritonclip_server.benchmarks.peers.{module}", *map(str, arguments)]


def _infinity_command(python: Path, model: str, port: int) -> list[str]:
    """Return the command of infinity, which computes in float32 on every CPU. The benchmark warms it up."""
    options = ["--model-id", model, "--served-model-name", EMBEDDINGS_MODEL, "--engine", "torch"]
    options += ["--device", "cpu", "--no-bettertransformer", "--no-model-warmup"]
    options += ["--host", "127.0.0.1", "--port", str(port)]
    return [str(python.parent / "infinity_emb"), "v2", *options]
