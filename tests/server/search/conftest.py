"""Fixtures: folders of drawn pictures, an index, and a Chroma server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.server.search.chroma_server import running_chroma
from tests.server.search.search_pictures import draw_folder
from tritonclip import Client
from tritonclip_server.serving.launcher import EmbeddedTriton

if TYPE_CHECKING:
    from tritonclip.search import Summary

COUNT = 300
"""Number of pictures in the index: three for each pair of colour and shape."""

FEW = 25
"""Number of pictures in the folder that a test may modify: every fourth pair, such as red circle."""


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
    from tritonclip.search import SearchIndex

    directory = tmp_path_factory.mktemp("search")
    draw_folder(directory / "pictures", COUNT)
    with SearchIndex.open(directory / "index", clip, create=True) as index:
        summary = index.sync([directory / "pictures"])
    return Indexed(directory / "pictures", directory / "index", summary)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of `few`, drawn once."""
    folder = tmp_path_factory.mktemp("few")
    draw_folder(folder, FEW, seed=1, step=4)
    return folder


@pytest.fixture
def few(drawn: Path, tmp_path: Path) -> Path:
    """A folder of FEW pictures that a test may modify."""
    return Path(shutil.copytree(drawn, tmp_path / "few"))


@pytest.fixture(scope="session")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running Chroma server."""
    with running_chroma(tmp_path_factory.mktemp("chroma")) as address:
        yield address
