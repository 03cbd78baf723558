"""A gateway in a separate process, started by its command, with its log."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import urllib3

START_S = 30
STOP_S = 20


@dataclass
class GatewayProcess:
    """A running gateway.

    Attributes:
        process: Process of the command.
        url: Address of the gateway.
        key: Valid API key, or None if the gateway requires none.
        lines: Lines of the log.
        pool: Connections of `request`.
    """

    process: subprocess.Popen[str]
    url: str = ""
    key: str | None = None
    lines: list[str] = field(default_factory=list)
    pool: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False))

    def request(self, method: str, path: str, **options: Any) -> urllib3.BaseHTTPResponse:
        """Send a request, with the API key unless other headers are given."""
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return self.pool.request(method, self.url + path, headers=options.pop("headers", headers), **options)

    def post(self, path: str, **json_body: Any) -> urllib3.BaseHTTPResponse:
        """Send a POST request with a JSON body."""
        return self.request("POST", path, json=json_body)

    def logged(self, **wanted: Any) -> dict[str, Any]:
        """Return the first log entry with the given members; wait up to 5 s for it."""
        end = time.monotonic() + 5
        while time.monotonic() < end:
            for line in list(self.lines):
                entry = json.loads(line)
                if wanted.items() <= entry.items():
                    return dict(entry)
            time.sleep(0.02)
        raise AssertionError(f"no log entry with {wanted} in:\n" + "\n".join(self.lines))


@contextlib.contextmanager
def running(
    triton_url: str, *options: object, environ: dict[str, str] | None = None, key: str | None = None
) -> Iterator[GatewayProcess]:
    """Run `tritonclip gateway` on a free port until the block ends.

    Args:
        triton_url: Address of the Triton server.
        *options: Options of the command.
        environ: Additional environment variables.
        key: API key that `GatewayProcess.request` sends.

    Raises:
        RuntimeError: The gateway did not start. The message contains its log.
    """
    command = [
        sys.executable,
        "-m",
        "tritonclip",
        "gateway",
        "--url",
        triton_url,
        "--port",
        "0",
        *map(str, options),
    ]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, encoding="utf-8", env=os.environ | (environ or {})
    )
    gateway = GatewayProcess(process, key=key)
    reader = threading.Thread(target=_read, args=(gateway,), daemon=True)
    reader.start()
    try:
        end = time.monotonic() + START_S
        while not gateway.url:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the gateway did not start:\n" + "\n".join(gateway.lines))
            time.sleep(0.02)
        yield gateway
    finally:
        gateway.pool.clear()
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(STOP_S)
        assert process.stderr is not None
        process.stderr.close()


def _read(gateway: GatewayProcess) -> None:
    assert gateway.process.stderr is not None
    for line in gateway.process.stderr:
        gateway.lines.append(line.rstrip("\n"))
        found = re.search(r"running on (https?://[\d.]+:\d+)", line)
        if found:
            gateway.url = found[1]
