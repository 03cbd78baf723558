"""Gateways for the tests: the API key, access to metrics, and processes that start quickly."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from tests.helpers.waiting import wait_until
from tritonclip_server.benchmarks.gateway_process import GatewayProcess

KEY = "tck-a-key-of-the-tests-only"
KEY_LINE = f"tests:{hashlib.sha256(KEY.encode()).hexdigest()}"
"""Line of the key in a keys file."""
HOPELESS_S = 120
PRELOADED = ["pytest", "tritonclip._cli.main", "tritonclip._cli.gateway", "tritonclip.gateway._serve"]


class Gateway(GatewayProcess):
    """A running gateway, a copy of a process that has imported its packages.

    Attributes:
        process: Process of the command.
    """

    process: BaseProcess  # type: ignore[assignment]

    def logged(self, **wanted: Any) -> dict[str, Any]:
        """Return the first log entry with the given members, once there is one."""
        found: list[dict[str, Any]] = []

        def is_logged() -> bool:
            entries = map(json.loads, list(self.lines))
            found.extend(entry for entry in entries if wanted.items() <= entry.items())
            return bool(found)

        wait_until(is_logged, lambda: f"no log entry with {wanted} in {self.lines}", HOPELESS_S)
        return found[0]


@contextlib.contextmanager
def run_gateway(
    triton_url: str, *options: object, environ: dict[str, str] | None = None, key: str | None = None
) -> Iterator[Gateway]:
    """Run `tritonclip gateway` on a free port until the block ends.

    The arguments are those of `tritonclip_server.benchmarks.gateway_process.running`, which starts a new
    interpreter. Here the process is forked from one that has imported the gateway, once per run.

    Raises:
        RuntimeError: The gateway did not start. The message contains its log.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    arguments = ["gateway", "--url", triton_url, "--port", "0", *map(str, options)]
    log, writer = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(arguments, os.environ | (environ or {}), writer))
    process.start()
    writer.close()
    gateway = Gateway(process, key=key)  # type: ignore[arg-type]
    reader = threading.Thread(target=_read, args=(gateway, log))
    reader.start()
    try:
        wait_until(lambda: gateway.url or not reader.is_alive(), "the gateway does not listen", HOPELESS_S)
        if not gateway.url:
            raise RuntimeError("the gateway did not start:\n" + "\n".join(gateway.lines))
        yield gateway
    finally:
        gateway.pool.clear()
        process.terminate()
        process.join(HOPELESS_S)
        if process.is_alive():
            process.kill()
        reader.join()


def metric(gateway: GatewayProcess, name: str) -> float:
    """Return the sum of the metrics whose lines start with a name."""
    text = gateway.request("GET", "/metrics").data.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def _run(arguments: list[str], environ: dict[str, str], log: Connection) -> None:
    """Run the command in the new process, with its standard error on the pipe."""
    from tritonclip._cli.main import main

    os.dup2(log.fileno(), sys.stderr.fileno())
    log.close()
    os.environ.clear()
    os.environ.update(environ)
    sys.exit(main(arguments))


def _read(gateway: Gateway, log: Connection) -> None:
    with open(log.fileno(), encoding="utf-8", closefd=False) as lines, log:
        for line in lines:
            gateway.lines.append(line.rstrip("\n"))
            if found := re.search(r"running on (https?://[\d.]+:\d+)", line):
                gateway.url = found[1]
