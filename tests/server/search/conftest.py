"""Fixtures: folders of drawn pictures, an index, and a Chroma server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.server.search.chroma_server import running_chroma
from tests.server.search.search_pictures import draw_folder
from tritonclip import Client
from tritonclip.search import SearchIndex, Summary
from tritonclip_server.serving.launcher import EmbeddedTriton

COUNT = 2000


@dataclass(frozen=True)
class Indexed:
    """A folder of pictures and its index; tests must not modify them."""

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
    """A folder of 100 pictures, one per pair of colour and shape, that a test may modify."""
    draw_folder(tmp_path / "few", 100, seed=1)
    return tmp_path / "few"


@pytest.fixture(scope="session")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running Chroma server."""
    with running_chroma(tmp_path_factory.mktemp("chroma")) as address:
        yield address
