"""Drawn pictures, an index of them, and a Chroma server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3
from search_pictures import draw_folder

from triton_launcher import EmbeddedTriton
from tritonclip import Client
from tritonclip.search import SearchIndex, Summary

COUNT = 2000
START_S = 60


@dataclass(frozen=True)
class Indexed:
    """A folder of pictures and its index, which tests only read."""

    folder: Path
    place: Path
    summary: Summary


@pytest.fixture(scope="session")
def clip(server: EmbeddedTriton) -> Iterator[Client]:
    with Client(server.grpc_url) as client:
        yield client


@pytest.fixture(scope="session")
def indexed(clip: Client, tmp_path_factory: pytest.TempPathFactory) -> Indexed:
    directory = tmp_path_factory.mktemp("search")
    draw_folder(directory / "pictures", COUNT)
    with SearchIndex.open(directory / "index", clip, create=True) as index:
        summary = index.sync([directory / "pictures"])
    return Indexed(directory / "pictures", directory / "index", summary)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A folder of a hundred pictures, one of each colour and shape, to do anything with."""
    draw_folder(tmp_path / "few", 100, seed=1)
    return tmp_path / "few"


@pytest.fixture(scope="session")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Chroma server."""
    command = shutil.which("chroma", path=str(Path(sys.executable).parent))
    if command is None and "CI" not in os.environ:
        pytest.skip("chroma not found; its tests need: pip install chromadb")
    assert command, "chroma not found; pip install chromadb"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    data = tmp_path_factory.mktemp("chroma")
    options = ["run", "--path", str(data), "--host", "127.0.0.1", "--port", str(port)]
    with open(data / "log", "wb") as log:
        process = subprocess.Popen([command, *options], stdout=log, stderr=log, cwd=data)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/v2/heartbeat", process)
        yield f"chroma://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    with urllib3.PoolManager(retries=False) as http:
        end = time.monotonic() + START_S
        while time.monotonic() < end and process.poll() is None:
            try:
                if http.request("GET", url, timeout=2).status == 200:
                    return
            except urllib3.exceptions.HTTPError:
                time.sleep(0.1)
    raise AssertionError("Chroma does not start")
