"""Starts and stops a real Triton server: that of NVIDIA's container, or the embedded one of a wheel.

The wheel `nvidia-pytriton` carries `tritonserver` 2.51.0 with the Python backend. That release has known
holes (see `SECURITY.md`): it belongs on loopback, for development, tests and benchmarks. Where a server is
found stands in `triton_installation.py`, and what its release is told in `triton_release.py`.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import secrets
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tritonclip_server.serving.installation import (
    Installation,
    LaunchError,
    find_installation,
    link_backend,
    server_environment,
)
from tritonclip_server.serving.metrics import Work, inside, read_work
from tritonclip_server.serving.processes import end, kill, stubs, unsent_bytes
from tritonclip_server.serving.release import command_line, server_flags
from tritonclip_server.serving.tls import TlsError, TlsFiles
from tritonclip_server.serving.tracing import TraceOptions, trace_warning

SHARED_MEMORY = Path("/dev/shm")
REGION_PATTERN = "triton_python_backend_shm_region_*"
"""Shared memory of Triton's Python backend."""
LOG_LINES_KEPT = 2000
LOOPBACK = "127.0.0.1"
ADMIN_KEY_VARIABLE = "TRITONCLIP_ADMIN_KEY"
DRAIN_VARIABLE = "TRITONCLIP_DRAIN_FILE"
QUIET_S = 0.5
METRICS_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How to start the server.

    Attributes:
        host: Address to bind; anything but loopback exposes a release with known holes.
        http_port: 0 picks a free port, as for the two others.
        grpc_port: See `http_port`.
        metrics_port: See `http_port`.
        http_host: Address of HTTP and metrics; `host` where None, but loopback with `tls`, which covers
            neither.
        tls: The files of TLS for gRPC; None speaks in the clear.
        admin_key: Opens the closed endpoints (header `admin-key`); a random one where None.
        explicit: Whether holders of that key may load and unload models (`rollout.py` does).
        start_timeout_s: How long the models may take to load.
        drain_timeout_s: How long a stop waits for requests inside the server.
        exit_timeout_s: How long Triton may take to end where it is not drained.
        trace: Where the server's spans go; None: there are none.
        flags: Further flags of `tritonserver` by name, without the dashes; they come last.
    """

    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    http_host: str | None = None
    tls: TlsFiles | None = None
    admin_key: str | None = None
    explicit: bool = False
    start_timeout_s: float = 300.0
    drain_timeout_s: float = 30.0
    exit_timeout_s: float = 3.0
    trace: TraceOptions | None = None
    flags: Mapping[str, str] = field(default_factory=dict)


def free_port(host: str) -> int:
    """A TCP port that is free on `host` now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _address(host: str, port: int) -> str:
    return f"{host}:{port or free_port(host)}"


def remove_stale_regions() -> list[str]:
    """Removes shared-memory regions of dead servers: those of this user that no process has mapped.

    Returns:
        The names of the regions removed.
    """
    # Listed before it is known what is mapped: a server that starts meanwhile maps what it makes at once.
    found = list(SHARED_MEMORY.glob(REGION_PATTERN))
    mapped = "".join(_memory_maps())
    removed = []
    for path in found:
        with contextlib.suppress(FileNotFoundError):  # another launcher may be at it too
            if path.name not in mapped and path.stat().st_uid == os.getuid():
                path.unlink()
                removed.append(path.name)
    return removed


def _memory_maps() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            yield path.read_text(encoding="utf-8", errors="replace")


class EmbeddedTriton:
    """A Triton server process on a model repository; a context manager that is ready inside and gone after.

    Args:
        repository: A prepared model repository.
        options: Addresses and time limits.
        on_line: Called with each line of the server's log, from a thread.
    """

    def __init__(
        self,
        repository: Path,
        options: ServerOptions | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self.options = options or ServerOptions()
        self.repository = repository
        self._http_host = self.options.http_host or (LOOPBACK if self.options.tls else self.options.host)
        self.http_url = _address(self._http_host, self.options.http_port)
        self.grpc_url = _address(self.options.host, self.options.grpc_port)
        self.metrics_url = _address(self._http_host, self.options.metrics_port)
        self.admin_key = self.options.admin_key or secrets.token_hex(16)
        self._on_line = on_line or (lambda line: None)
        self._log: deque[str] = deque(maxlen=LOG_LINES_KEPT)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._scratch = contextlib.ExitStack()
        self._drain_file: Path | None = None

    @property
    def probe_url(self) -> str:
        """Where this machine reaches the server without certificates: over HTTP, if gRPC has TLS."""
        return f"http://{self.http_url}" if self.options.tls else self.grpc_url

    @property
    def log(self) -> list[str]:
        """The last lines of the server's log."""
        return list(self._log)

    @property
    def pid(self) -> int:
        """The process id of `tritonserver`."""
        if self._process is None:
            raise LaunchError("the server was not started")
        return self._process.pid

    def start(self) -> None:
        """Starts the server and waits until every model is ready.

        Raises:
            LaunchError: No embedded server here, no such repository, a port in use, a model that does not
                load, or the time is over. Nothing is left running.
        """
        if not any(self.repository.glob("*/config.pbtxt")):
            raise LaunchError(
                f"{self.repository} is no model repository: write one with scripts/prepare_weights.py"
            )
        installation = find_installation()
        self._check_tls()
        if self.options.trace and (warning := trace_warning(installation.release)):
            self._on_line(warning)
        self._refuse_used_ports()
        remove_stale_regions()
        backends = Path(self._scratch.enter_context(tempfile.TemporaryDirectory(prefix="tritonclip-")))
        self._drain_file = backends / "drain"
        link_backend(installation, backends / "python")
        self._process = subprocess.Popen(
            self._command(installation, backends),
            env={
                **server_environment(installation, without=[ADMIN_KEY_VARIABLE]),
                DRAIN_VARIABLE: str(self._drain_file),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C in a terminal reaches the launcher only, which then drains.
        )
        self._reader = threading.Thread(target=self._read_log, args=(self._process,), daemon=True)
        self._reader.start()
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop(drain=False)
            raise

    def wait(self) -> int:
        """Waits until the server ends by itself and returns its exit code."""
        if self._process is None:
            raise LaunchError("the server was not started")
        return self._process.wait()

    @property
    def exit_code(self) -> int | None:
        """Of a server that ended by itself; None while it runs."""
        return None if self._process is None else self._process.poll()

    def stubs(self) -> dict[int, str]:
        """The process id of each model instance that runs, and its model."""
        return stubs(self.pid)

    def work(self, timeout_s: float = METRICS_TIMEOUT_S) -> dict[str, Work]:
        """What is inside each model, and what it has done."""
        return read_work(self.metrics(timeout_s))

    def stop(self, drain: bool = True) -> None:
        """Refuses new requests, waits for those inside (unless `drain` is False), ends the server, cleans up.

        Does nothing where no server runs. While it drains, the model `admission` refuses requests as
        UNAVAILABLE, so that callers go elsewhere or come again. A drained server has nothing left to do and
        is killed, so that its port closes at once, but not before its last spans had time to be sent, where
        it has any. Triton's own end would drop what is inside an ensemble, and for seconds tell callers that
        there is no such model.
        """
        drained = drain and self.exit_code is None and self._process is not None
        if drained:
            self._drain(self.options.drain_timeout_s)
            if self.options.trace:
                time.sleep(self.options.trace.stop_s)
        self._clean_up(kill if drained else lambda process: end(process, self.options.exit_timeout_s))

    def kill(self) -> None:
        """Ends the server at once, whatever is inside, and cleans up after it; `start` may follow."""
        self._clean_up(kill)

    def _clean_up(self, end_by: Callable[[subprocess.Popen[str]], None]) -> None:
        process = self._process
        if process is not None:
            end_by(process)
            if self._reader is not None:
                self._reader.join(timeout=5)
            if process.stdout is not None:
                process.stdout.close()
            remove_stale_regions()
        self._process = None  # at last, so that a stop that was interrupted can be repeated
        self._scratch.close()

    def __enter__(self) -> EmbeddedTriton:
        """Starts the server."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops the server."""
        self.stop()

    def metrics(self, timeout_s: float = METRICS_TIMEOUT_S) -> str:
        """The server's metrics in Prometheus' text form; OSError where it does not answer."""
        with urllib.request.urlopen(f"http://{self.metrics_url}/metrics", timeout=timeout_s) as reply:
            return str(reply.read().decode())

    def _command(self, installation: Installation, backends: Path) -> list[str]:
        flags = {"model-repository": str(self.repository.resolve()), "backend-directory": str(backends)}
        flags |= server_flags(
            installation.release,
            admin_key=self.admin_key,
            explicit=self.options.explicit,
            gpu=Path("/dev/nvidiactl").exists(),
            exit_timeout_s=self.options.exit_timeout_s,
        )
        for name, url in (("http", self.http_url), ("grpc", self.grpc_url), ("metrics", self.metrics_url)):
            host, _, port = url.rpartition(":")
            flags |= {f"{name}-address": host, f"{name}-port": port}
        flags |= self.options.tls.flags() if self.options.tls else {}
        further = self.options.trace.arguments() if self.options.trace else []
        further += [f"--{name}={value}" for name, value in self.options.flags.items()]
        return [str(installation.server), *command_line(flags), *further]

    def _check_tls(self) -> None:
        if self.options.tls is None:
            return
        try:
            warnings = self.options.tls.check()
        except TlsError as error:
            raise LaunchError(str(error)) from error
        note = f"only gRPC has TLS; HTTP and metrics listen in the clear on {self._http_host}"
        for text in (*warnings, note):
            self._on_line(f"tls: {text}")

    def _refuse_used_ports(self) -> None:
        for name, url in (("HTTP", self.http_url), ("gRPC", self.grpc_url), ("metrics", self.metrics_url)):
            host, _, port = url.rpartition(":")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, int(port)))
                except OSError as error:
                    raise LaunchError(
                        f"cannot bind {name} to {url} ({error.strerror}); stop what uses it, or choose "
                        "another port (0 picks a free one)"
                    ) from error

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            self._log.append(line.rstrip("\n"))
            self._on_line(self._log[-1])

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.options.start_timeout_s
        while not self._is_ready():
            if self._process is None or self._process.poll() is not None:
                raise LaunchError(f"Triton ended while it was loading the models:\n{self._failure()}")
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"Triton was not ready after {self.options.start_timeout_s:.0f} s:\n{self._failure()}"
                )
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        """Whether every model is ready and the metrics, which Triton serves last, can be read."""
        try:
            with urllib.request.urlopen(f"http://{self.http_url}/v2/health/ready", timeout=2) as reply:
                return bool(reply.status == 200) and bool(self.metrics())
        except (OSError, http.client.HTTPException):  # a connection to a free port may meet itself
            return False

    def _failure(self) -> str:
        """The lines of the log that say what went wrong; its end where none does."""
        if self._reader is not None:
            self._reader.join(timeout=2)
        telling = [
            line
            for line in self._log
            if re.match(r"E\d|.*(?:(?:Error|error): |: unrecognized option )", line)
        ]
        return "\n".join((telling or list(self._log))[-12:])

    def _drain(self, timeout_s: float) -> None:
        """Has new requests refused, and waits until nothing was inside for `QUIET_S`, or the time is over."""
        if self._drain_file is not None:
            self._drain_file.touch()
        ports = {int(url.rpartition(":")[2]) for url in (self.http_url, self.grpc_url)}
        deadline = time.monotonic() + timeout_s
        quiet_since, before = time.monotonic(), dict[str, Work]()
        while time.monotonic() < deadline and time.monotonic() - quiet_since < QUIET_S:
            try:
                now = self.work()
            except OSError:
                return
            if now != before or inside(now) or unsent_bytes(ports):
                quiet_since, before = time.monotonic(), now
            time.sleep(0.05)
