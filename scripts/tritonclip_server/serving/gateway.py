"""The REST gateway of the client package, as a process next to the server."""

from __future__ import annotations

import http.client
import importlib.util
import shlex
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from types import TracebackType

from tritonclip_server.serving.installation import LaunchError
from tritonclip_server.serving.launcher import check_port
from tritonclip_server.serving.processes import kill_with_this_process, terminate

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 35.0
"""Time that the gateway may take to answer the requests in flight; it gives up after 30 s itself."""
HEALTH_TIMEOUT_S = 2.0
RESTART_DELAY_S = 1.0


class Gateway:
    """The gateway's process, which is started again if it exits.

    As a context manager it starts the process, waits until it answers, and stops it.

    Args:
        server_url: Address of the server.
        host: Address to bind.
        port: Port to bind.
        options: Further options of `tritonclip gateway`, as in a shell.
        log_format: json or text.
        report: Called with each line for the log.
    """

    def __init__(
        self,
        server_url: str,
        host: str,
        port: int,
        options: str,
        log_format: str,
        report: Callable[[str], None],
    ) -> None:
        self.url = f"http://{host}:{port}"
        self._command = [sys.executable, "-m", "tritonclip", "gateway", "--url", server_url]
        self._command += ["--host", host, "--port", str(port), "--log-format", log_format]
        self._command += shlex.split(options)
        self._report = report
        self._process: subprocess.Popen[str] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()

    def __enter__(self) -> Gateway:
        """Start the gateway, and wait until it answers.

        Raises:
            LaunchError: It exits, or does not answer in time.
        """
        process = self._start()
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not self._answers():
                if process.poll() is not None:
                    raise LaunchError(f"the gateway exited with code {process.returncode}; see above")
                if time.monotonic() > deadline:
                    raise LaunchError(f"the gateway did not answer within {START_TIMEOUT_S:.0f} s")
                time.sleep(0.05)
        except BaseException:
            self.stop()
            raise
        threading.Thread(target=self._keep_running, name="gateway", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the gateway."""
        self.stop()

    def stop(self) -> None:
        """Let the gateway answer the requests in flight, and end it."""
        self._stopping.set()
        if self._process is not None:
            terminate(self._process, STOP_TIMEOUT_S)
        self._end_watcher()

    def _start(self) -> subprocess.Popen[str]:
        # Ctrl-C in a terminal does not reach it, so that it stops before the server.
        process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, text=True, start_new_session=True)
        self._process, self._watcher = process, kill_with_this_process(process.pid)
        return process

    def _keep_running(self) -> None:
        while self._process is not None:
            code = self._process.wait()
            if self._stopping.wait(RESTART_DELAY_S):
                return
            self._report(f"the gateway exited with code {code}; starting it again")
            self._end_watcher()
            self._start()

    def _end_watcher(self) -> None:
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()  # closes its input and waits
            self._watcher = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=HEALTH_TIMEOUT_S):
                return True
        except (OSError, http.client.HTTPException):
            return False


def check_gateway(host: str, port: int) -> None:
    """Check, before the server starts, that the gateway can start.

    Raises:
        LaunchError: It is not installed, or its port is in use.
    """
    if not all(map(importlib.util.find_spec, ("tritonclip", "fastapi", "uvicorn"))):
        raise LaunchError(
            "--gateway needs the client with its gateway: pip install './client[gateway]' in a checkout, or "
            "pip install 'tritonclip[gateway]'"
        )
    check_port("the gateway", f"{host}:{port}", "--gateway-port")
