"""Start and stop a real Triton server: that of NVIDIA's container, or the embedded one of a wheel.

The wheel `nvidia-pytriton` carries `tritonserver` 2.51.0 with the Python backend. That release has known
vulnerabilities (see `SECURITY.md`). Keep it on loopback, for development, tests and benchmarks.
`installation.py` finds a server, and `release.py` holds the flags that its release knows.
"""

from __future__ import annotations

import contextlib
import errno
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
from tritonclip_server.serving.logs import OpenFilesFilter
from tritonclip_server.serving.metrics import ModelProgress, read_progress, total_in_flight
from tritonclip_server.serving.processes import (
    file_limit,
    kill,
    kill_with_this_process,
    listener,
    raise_file_limit,
    stubs,
    terminate,
    unsent_bytes,
)
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
DRAINED_AFTER_S = 0.5
"""Time without a request in flight after which a server counts as drained."""
METRICS_TIMEOUT_S = 10.0
NO_GPU = re.compile(r"CUDA driver version is insufficient|CudaDriverHelper|pinned system memory")
"""Complaints of Triton on a machine without a GPU, where nothing is wrong."""
FLOOD_PAUSE_S = 0.001
"""Pause after a line that Triton repeats without end; the full pipe then slows Triton down."""


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Addresses, access and time limits of a server.

    Attributes:
        host: Address to bind. Anything but loopback exposes a release with known vulnerabilities.
        http_port: Port of HTTP; 0 picks a free one, as for the two other ports.
        grpc_port: Port of gRPC.
        metrics_port: Port of the metrics.
        http_host: Address of HTTP and metrics, which have no TLS. The default is `host`, or loopback with
            `tls`.
        tls: PEM files of TLS for gRPC; None serves gRPC without TLS.
        admin_key: Key of the closed endpoints (header `admin-key`); random if None.
        explicit: Let callers with that key load and unload models, as a rollout does.
        start_timeout_s: Time limit for the models to load, in seconds.
        drain_timeout_s: Longest wait for requests in flight when the server stops, in seconds.
        exit_timeout_s: Time that Triton may take to exit when it is not drained, in seconds.
        trace: Destination and sampling of the server's spans; None sends no spans.
        flags: Further flags of `tritonserver` by name, without dashes; they come last.
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


def _has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()


def free_port(host: str) -> int:
    """Return a TCP port that is free on `host` now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def check_port(name: str, url: str, option: str) -> None:
    """Check that a port is free.

    Args:
        name: What it is for.
        url: host:port.
        option: The option that chooses it.

    Raises:
        LaunchError: The text names the process that holds the port, if this user may see it.
    """
    host, _, port = url.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            holder = listener(int(port)) if error.errno == errno.EADDRINUSE else None
            used = f"{holder} uses it" if holder else error.strerror
            raise LaunchError(
                f"cannot bind {name} to {url}: {used}; stop that program, or choose another port with "
                f"{option} (0 picks a free one)"
            ) from error


def _address(host: str, port: int) -> str:
    return f"{host}:{port or free_port(host)}"


def remove_stale_regions() -> list[str]:
    """Remove shared-memory regions of dead servers: regions of this user that no process has mapped.

    Returns:
        Names of the removed regions.
    """
    # List the regions before the mappings: a server that starts meanwhile maps its regions at once.
    found = list(SHARED_MEMORY.glob(REGION_PATTERN))
    mapped = "".join(_memory_maps())
    removed = []
    for path in found:
        with contextlib.suppress(FileNotFoundError):  # another launcher may remove it too
            if path.name not in mapped and path.stat().st_uid == os.getuid():
                path.unlink()
                removed.append(path.name)
    return removed


def _memory_maps() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            yield path.read_text(encoding="utf-8", errors="replace")


def is_model_repository(directory: Path) -> bool:
    """Return whether a directory holds models with their configurations."""
    return any(directory.glob("*/config.pbtxt"))


class EmbeddedTriton:
    """A Triton server process on a model repository.

    As a context manager it starts the server, waits until it is ready, and stops it at the end. The server
    does not outlive this process, even if it is killed. It may open as many files as this process's hard
    limit allows.

    Args:
        repository: A prepared model repository.
        options: Addresses, access and time limits.
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
        self._watcher: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._scratch = contextlib.ExitStack()
        self._drain_file: Path | None = None

    @property
    def probe_url(self) -> str:
        """Address at which this machine reaches the server without certificates: HTTP if gRPC has TLS."""
        return f"http://{self.http_url}" if self.options.tls else self.grpc_url

    @property
    def log(self) -> list[str]:
        """Last lines of the server's log."""
        return list(self._log)

    @property
    def pid(self) -> int:
        """Process id of `tritonserver`."""
        if self._process is None:
            raise LaunchError("the server was not started")
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until every model is ready.

        Raises:
            LaunchError: There is no server for this machine, no model repository, a port is in use, a model
                does not load, or the time limit is over. Nothing is left running.
        """
        if not is_model_repository(self.repository):
            raise LaunchError(
                f"{self.repository} is not a model repository: write one with `tritonclip-server prepare`"
            )
        installation = find_installation()
        self._check_tls()
        if self.options.trace and (warning := trace_warning(installation.release)):
            self._on_line(warning)
        self._check_ports()
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
            start_new_session=True,  # Ctrl-C in a terminal reaches only the launcher, which then drains.
        )
        try:
            self._watcher = kill_with_this_process(self._process.pid)
            raise_file_limit(self._process.pid)
            self._reader = threading.Thread(target=self._read_log, args=(self._process,), daemon=True)
            self._reader.start()
            self._wait_until_ready()
        except BaseException:
            self.stop(drain=False)
            raise

    def wait(self) -> int:
        """Wait until the server exits on its own, and return its exit code."""
        if self._process is None:
            raise LaunchError("the server was not started")
        return self._process.wait()

    @property
    def exit_code(self) -> int | None:
        """Exit code of a server that exited on its own, or None while it is running."""
        return None if self._process is None else self._process.poll()

    def stubs(self) -> dict[int, str]:
        """Return the model of each running Python process by process id."""
        return stubs(self.pid)

    def progress(self, timeout_s: float = METRICS_TIMEOUT_S) -> dict[str, ModelProgress]:
        """Return the requests in flight and the finished requests of each model."""
        return read_progress(self.metrics(timeout_s))

    def stop(self, drain: bool = True) -> None:
        """Reject new requests, wait for those in flight, end the server, and clean up.

        Does nothing if no server is running. While it drains, the model `admission` rejects requests as
        UNAVAILABLE, so callers retry or use another server. A drained server is killed, so that its port
        closes at once. With traces it first gets the time to send its last spans. Triton's own shutdown
        would drop requests inside an ensemble, and report for seconds that there is no such model.

        Args:
            drain: Wait for the requests in flight.
        """
        drained = drain and self.exit_code is None and self._process is not None
        if drained:
            self._drain(self.options.drain_timeout_s)
            if self.options.trace:
                time.sleep(self.options.trace.export_timeout_s)
        self._clean_up(kill if drained else lambda process: terminate(process, self.options.exit_timeout_s))

    def kill(self) -> None:
        """Kill the server with its requests in flight, and clean up. It can be started again."""
        self._clean_up(kill)

    def _clean_up(self, end_process: Callable[[subprocess.Popen[str]], None]) -> None:
        process = self._process
        if process is not None:
            end_process(process)
            if self._reader is not None:
                self._reader.join(timeout=5)
            if process.stdout is not None:
                process.stdout.close()
            remove_stale_regions()
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()  # closes its input and waits
            self._watcher = None
        self._process = None  # last, so that an interrupted stop can be repeated
        self._scratch.close()

    def __enter__(self) -> EmbeddedTriton:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the server."""
        self.stop()

    def metrics(self, timeout_s: float = METRICS_TIMEOUT_S) -> str:
        """Return the server's metrics in Prometheus' text format.

        Raises:
            OSError: The server does not answer.
        """
        with urllib.request.urlopen(f"http://{self.metrics_url}/metrics", timeout=timeout_s) as reply:
            return str(reply.read().decode())

    def _command(self, installation: Installation, backends: Path) -> list[str]:
        flags = {"model-repository": str(self.repository.resolve()), "backend-directory": str(backends)}
        flags |= server_flags(
            installation.release,
            admin_key=self.admin_key,
            explicit=self.options.explicit,
            gpu=_has_gpu(),
            exit_timeout_s=self.options.exit_timeout_s,
        )
        for name, url in (("http", self.http_url), ("grpc", self.grpc_url), ("metrics", self.metrics_url)):
            host, _, port = url.rpartition(":")
            flags |= {f"{name}-address": host, f"{name}-port": port}
        flags |= self.options.tls.flags() if self.options.tls else {}
        more = self.options.trace.arguments() if self.options.trace else []
        more += [f"--{name}={value}" for name, value in self.options.flags.items()]
        return [str(installation.server), *command_line(flags), *more]

    def _check_tls(self) -> None:
        if self.options.tls is None:
            return
        try:
            warnings = self.options.tls.check()
        except TlsError as error:
            raise LaunchError(str(error)) from error
        note = f"only gRPC has TLS; HTTP and metrics listen without TLS on {self._http_host}"
        for text in (*warnings, note):
            self._on_line(f"tls: {text}")

    def _check_ports(self) -> None:
        for name, url in (("HTTP", self.http_url), ("gRPC", self.grpc_url), ("metrics", self.metrics_url)):
            check_port(name, url, f"--{name.lower()}-port")

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        open_files = OpenFilesFilter()
        hidden = None if _has_gpu() else NO_GPU
        for line in process.stdout or ():
            if hidden and hidden.search(line):
                continue
            text: str | None = line.rstrip("\n")
            if open_files.matches(line):
                text = open_files.replacement(file_limit(process.pid))
                time.sleep(FLOOD_PAUSE_S)
            if text is not None:
                self._log.append(text)
                self._on_line(text)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.options.start_timeout_s
        while not self._is_ready():
            if self._process is None or self._process.poll() is not None:
                raise LaunchError(f"Triton exited while it was loading the models:\n{self._failure()}")
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"Triton was not ready after {self.options.start_timeout_s:.0f} s:\n{self._failure()}"
                )
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        """Return whether every model is ready and the metrics, which Triton serves last, can be read."""
        try:
            with urllib.request.urlopen(f"http://{self.http_url}/v2/health/ready", timeout=2) as reply:
                return bool(reply.status == 200) and bool(self.metrics())
        except (OSError, http.client.HTTPException):  # a connection to a free port may connect to itself
            return False

    def _failure(self) -> str:
        """Return the lines of the log that name an error, or its last lines if there are none."""
        if self._reader is not None:
            self._reader.join(timeout=2)
        errors = [
            line
            for line in self._log
            if re.match(r"E\d|.*(?:(?:Error|error): |: unrecognized option )", line)
        ]
        return "\n".join((errors or list(self._log))[-12:])

    def _drain(self, timeout_s: float) -> None:
        """Have new requests rejected, and wait until none was in flight for `DRAINED_AFTER_S`."""
        if self._drain_file is not None:
            self._drain_file.touch()
        ports = {int(url.rpartition(":")[2]) for url in (self.http_url, self.grpc_url)}
        deadline = time.monotonic() + timeout_s
        quiet_since, before = time.monotonic(), dict[str, ModelProgress]()
        while time.monotonic() < deadline and time.monotonic() - quiet_since < DRAINED_AFTER_S:
            try:
                now = self.progress()
            except OSError:
                return
            if now != before or total_in_flight(now) or unsent_bytes(ports):
                quiet_since, before = time.monotonic(), now
            time.sleep(0.05)
