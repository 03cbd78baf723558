"""Callers that keep a server under load, and `serve.py` as a process."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.helpers.pictures import encode, noise
from tests.helpers.servers import ROOT, Servers
from tests.helpers.waiting import wait_until
from tritonclip import Client, DeadlineExceededError, ServerUnavailableError, TritonClipError
from tritonclip_server.serving import processes

LABELS = ["a red circle", "a blue square", "the digit 7"]
TOLERANCE = 1e-4
HOPELESS_S = 300.0
KNOWN = ("answered", "draining", "overloaded", "unavailable", "lost")
INSIDE = ("nv_inference_pending_request_count", "tritonclip_requests_executing")
FAST = ("--probe-interval=0.5", "--probe-timeout=10", "--stall-timeout=15", "--restart-window=1")
"""Options of `serve.py`: it notices faults sooner than by default, and never gives up."""


@functools.cache
def images() -> list[bytes]:
    """Return four images of the demo."""
    return [path.read_bytes() for path in sorted((ROOT / "scripts" / "demo" / "images").glob("*.*g"))[:4]]


@functools.cache
def large_images(side: int) -> list[bytes]:
    """Return two images that take long to decode."""
    return [encode(noise(side, side, seed), "JPEG", quality=85) for seed in range(2)]


READY = re.compile(r"ready: grpc (\S+), http (\S+), metrics ([^\s,]+)")


class Serving:
    """A `serve.py` process.

    Attributes:
        process: The process of `serve.py`.
        grpc_url: Address that it printed when it was ready, like the two others.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        ready = next(filter(None, (READY.match(line) for line in lines)), None)
        if ready is None:
            _, log = process.communicate(timeout=HOPELESS_S)
            raise AssertionError(log)
        self.grpc_url, self.http_url, self.metrics_url = ready.groups()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        self.log.extend(line.rstrip("\n") for line in self.process.stderr or ())

    @property
    def triton_pid(self) -> int:
        """Process id of `tritonserver`, a child of `serve.py`."""
        command = ["pgrep", "--parent", str(self.process.pid), "--exact", "tritonserver"]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def stub_pid(self, model: str) -> int:
        """Return the process id of a model's first instance."""
        return min(pid for pid, name in processes.stubs(self.triton_pid).items() if name == model)

    def metrics(self) -> str:
        """Return the server's metrics."""
        with urllib.request.urlopen(f"http://{self.metrics_url}/metrics", timeout=HOPELESS_S) as reply:
            return str(reply.read().decode())

    def supervisor_lines(self, text: str, since: int = 0) -> list[str]:
        """Return the lines of the supervisor that contain a text, after line `since` of the log."""
        return [line for line in self.log[since:] if "supervisor: " in line and text in line]

    def wait_for_supervisor(self, text: str, since: int = 0) -> float:
        """Wait for such a line, and return the seconds it took."""
        return wait_until(lambda: self.supervisor_lines(text, since), lambda: str(self.log[-20:]), HOPELESS_S)

    def is_healthy(self) -> bool:
        """Return whether the server answers a true inference."""
        with (
            contextlib.suppress(TritonClipError),
            Client(self.grpc_url, timeout_s=HOPELESS_S, attempts=1) as client,
        ):
            return client.health(deep=True).ok
        return False

    def close(self) -> None:
        """End the process in any state."""
        with contextlib.suppress(subprocess.CalledProcessError, ValueError):
            os.kill(self.triton_pid, signal.SIGCONT)
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(HOPELESS_S)
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@contextlib.contextmanager
def serve(
    servers: Servers, why: str, repository: Path, *options: str, before: tuple[str, ...] = ()
) -> Iterator[Serving]:
    """Run `serve.py` on free ports, with the words of `before` in front of the command.

    Args:
        servers: Record of the servers of this run.
        why: The reason why no shared server will do.
        repository: The model repository.
        options: Options of `serve.py`.
        before: Words in front of the command.
    """
    servers.command(why)
    ports = [f"--{name}-port=0" for name in ("http", "grpc", "metrics")]
    process = subprocess.Popen(
        [
            *before,
            sys.executable,
            "scripts/serve.py",
            str(repository),
            *ports,
            "--log-format",
            "text",
            *options,
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    serving = Serving(process)
    try:
        yield serving
    finally:
        serving.close()


@dataclass
class Seen:
    """One call, as its caller saw it.

    Attributes:
        began: Start of the call in seconds of `time.monotonic`, like `ended`.
        outcome: `answered`, `draining`, `overloaded`, `unavailable` (retry), `lost` (no answer in time), or
            the error.
    """

    began: float
    ended: float
    outcome: str


def outcome_of(error: TritonClipError) -> str:
    if isinstance(error, ServerUnavailableError):
        word = error.message.partition(":")[0]
        return word if word in ("draining", "overloaded") else "unavailable"
    return "lost" if isinstance(error, DeadlineExceededError) else f"{type(error).__name__}: {error.message}"


@dataclass
class Callers:
    """Threads that classify without pause inside a `with` block, each with its own client.

    Attributes:
        pictures: Images of each request; if None, each thread sends one of the demo's images.
        seen: All calls, in the order in which they ended.
        wrong: Answers that differ from those before the fault.
    """

    url: str
    count: int = 4
    pictures: list[bytes] | None = None
    timeout_s: float = HOPELESS_S
    attempts: int = 1
    seen: list[Seen] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __enter__(self) -> Callers:
        with Client(self.url) as client:
            pictures = [[one] for one in images()] if self.pictures is None else [self.pictures]
            self._right = [(one, scores(client, one)) for one in pictures]
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(index,)) for index in range(self.count)]
        for thread in self._threads:
            thread.start()
        self.wait_for(2 * self.count)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, answers: int) -> None:
        """Wait for so many further answers."""
        goal = self.count_of("answered") + answers
        wait_until(lambda: self.count_of("answered") >= goal, lambda: str(self.outcomes()), HOPELESS_S)

    def count_of(self, outcome: str) -> int:
        return sum(one.outcome == outcome for one in list(self.seen))

    def outcomes(self) -> dict[str, int]:
        return dict(Counter(one.outcome for one in list(self.seen)))

    def others(self) -> list[str]:
        """Return the errors other than a rejection or a lost answer."""
        return [one.outcome for one in self.seen if one.outcome not in KNOWN]

    def _call(self, index: int) -> None:
        with Client(self.url, timeout_s=self.timeout_s, attempts=self.attempts) as client:
            while not self._ended.is_set():
                began = time.monotonic()
                try:
                    pictures, right = self._right[index % len(self._right)]
                    found = scores(client, pictures)
                    outcome = "answered"
                    if not np.allclose(found, right, atol=TOLERANCE):
                        self.wrong.append(f"image {index}: {found}")
                except TritonClipError as error:
                    outcome = outcome_of(error)
                    self._ended.wait(0.02)  # a short pause before the retry
                self.seen.append(Seen(began, time.monotonic(), outcome))


def scores(client: Client, images: list[bytes]) -> np.ndarray:
    """Return the scores float32 [images, labels], in the order of `LABELS`."""
    ranked = client.classify(images, LABELS)
    return np.array([[dict(map(_pair, one))[label] for label in LABELS] for one in ranked], np.float32)


def _pair(found: dict[str, object]) -> tuple[object, object]:
    return found["label"], found["score"]


def record_callers(record: Callable[[str, object], None], callers: Callers) -> None:
    """Record the outcomes of the calls for the summary of the run."""
    for outcome in KNOWN:
        record(outcome, callers.count_of(outcome))
    record("other errors", len(callers.others()))
    record("longest call (s)", max(one.ended - one.began for one in callers.seen))


def wait_until_empty(serving: Serving) -> float:
    """Wait until nothing is queued or executing, and return the seconds it took."""
    inside = re.compile(rf"^(?:{'|'.join(INSIDE)})(?:{{.*}})? (\S+)$", re.MULTILINE)
    return wait_until(
        lambda: not any(map(float, inside.findall(serving.metrics()))), serving.metrics, HOPELESS_S, 0.05
    )


@contextlib.contextmanager
def never_reads(http_url: str) -> Iterator[None]:
    """Request tens of megabytes over HTTP and read none of them."""
    texts = [f"text {index}" for index in range(2000)]
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1, len(texts)], "data": texts}
    body = json.dumps({"inputs": [tensor]}).encode()
    host, _, port = http_url.rpartition(":")
    head = f"POST /v2/models/clip_text_embedding/infer HTTP/1.1\r\nHost: {http_url}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        wait_until(lambda: processes.unsent_bytes({int(port)}), "the server sent everything", HOPELESS_S)
        yield
