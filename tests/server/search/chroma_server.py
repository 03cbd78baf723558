"""A real Chroma server from PyPI for the tests."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import urllib3

from tests.helpers.programs import skip_unless_ci
from tests.helpers.waiting import wait_until
from tritonclip_server.serving.launcher import free_port

START_S = 120
STOP_S = 60


@contextlib.contextmanager
def running_chroma(data: Path) -> Iterator[str]:
    """Run a Chroma server that stores its data in `data`; yield its address.

    Without the command `chroma`, skip the test; in CI, fail it.
    """
    command = shutil.which("chroma", path=str(Path(sys.executable).parent))
    if command is None:
        skip_unless_ci("chroma not found; these tests need: pip install chromadb")
    port = free_port("127.0.0.1")
    options = ["run", "--path", str(data), "--host", "127.0.0.1", "--port", str(port)]
    with open(data / "log", "wb") as log:
        process = subprocess.Popen([command, *options], stdout=log, stderr=log, cwd=data)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/v2/heartbeat", process)
        yield f"chroma://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    with urllib3.PoolManager(retries=False) as http:

        def answers() -> bool:
            assert process.poll() is None, "Chroma exited"
            try:
                return http.request("GET", url, timeout=START_S).status == 200
            except urllib3.exceptions.HTTPError:
                return False

        wait_until(answers, "Chroma did not answer", timeout_s=START_S)
