"""Fixtures of the folders `server/gateway` and `system/gateway`: gateways, an index, and a browser."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.gateway import KEY, KEY_LINE, Gateway, run_gateway
from tests.helpers.programs import require
from tests.helpers.servers import ROOT
from tritonclip import Client
from tritonclip_server.serving.launcher import EmbeddedTriton

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.server.gateway.page_driver import ClipPage

__all__ = [
    "axe",
    "broken",
    "chromium",
    "clip",
    "direct",
    "gateway",
    "gateway_with_keys",
    "node_modules",
    "open_gateway",
    "opened",
    "pictures",
    "place",
    "searching",
]

NODE_MODULES = ROOT / "build" / "gateway" / "node_modules"
HTML_NAME = '<img src=x onerror=alert(1)> & "quotes".jpg'
"""Name of a picture of a green heart in the index."""


@pytest.fixture(scope="session")
def open_gateway(server: EmbeddedTriton) -> Iterator[Gateway]:
    """Start a gateway without keys."""
    with run_gateway(server.grpc_url) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def gateway(open_gateway: Gateway) -> str:
    """Return the URL of the open gateway."""
    return open_gateway.url


@pytest.fixture(scope="session")
def gateway_with_keys(server: EmbeddedTriton) -> Iterator[Gateway]:
    """Start a gateway with one API key."""
    with run_gateway(server.grpc_url, environ={"TRITONCLIP_GATEWAY_KEYS": KEY_LINE}, key=KEY) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def direct(server: EmbeddedTriton) -> Iterator[Client]:
    """Return a client of the server behind the gateways."""
    with Client(server.grpc_url) as client:
        yield client


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw 100 pictures, one for each pair of colour and shape, and one whose name is HTML."""
    from tests.server.search.search_pictures import draw_folder

    folder = tmp_path_factory.mktemp("gateway") / "pictures"
    draw_folder(folder, 100)
    shutil.copy(next(folder.rglob("*green heart.jpg")), folder / HTML_NAME)
    return folder


@pytest.fixture(scope="session")
def place(pictures: Path, direct: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Index the pictures and two texts, and return the folder of the index."""
    from tritonclip.search import SearchIndex

    place = tmp_path_factory.mktemp("index") / "index"
    captions = place.parent / "captions.txt"
    captions.write_text("a red circle\na blue square\n", encoding="utf-8")
    with SearchIndex.open(place, direct, create=True) as index:
        index.sync([pictures], text_files=[captions])
    return place


@pytest.fixture(scope="session")
def searching(server: EmbeddedTriton, place: Path) -> Iterator[Gateway]:
    """Start a gateway with the index."""
    with run_gateway(server.grpc_url, "--index", place) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Start a browser for one module, because Playwright keeps an event loop in the thread of the tests."""
    executable = require("chromium", "chromium")
    from playwright.sync_api import sync_playwright

    from tests.server.gateway.page_driver import launch

    with sync_playwright() as playwright:
        browser = launch(playwright, executable)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """Install the packages of `server/gateway/package.json` if they are missing, and return their folder."""
    listed = ROOT / "tests" / "server" / "gateway" / "package.json"
    packages = json.loads(listed.read_text(encoding="utf-8"))["dependencies"]
    if any(_installed_version(name) != version for name, version in packages.items()):
        npm = require("npm", "npm nodejs")
        NODE_MODULES.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(listed, NODE_MODULES.parent)
        install = [npm, "install", "--silent", "--prefix", NODE_MODULES.parent]
        assert subprocess.run(install, check=False).returncode == 0
    return NODE_MODULES


def _installed_version(package: str) -> str | None:
    description = NODE_MODULES / package / "package.json"
    if not description.exists():
        return None
    version: str = json.loads(description.read_text(encoding="utf-8"))["version"]
    return version


@pytest.fixture(scope="session")
def axe(node_modules: Path) -> str:
    """Return the source of the accessibility checker."""
    return (node_modules / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def opened(chromium: Browser) -> Iterator[Callable[..., ClipPage]]:
    """Return a function that opens pages, and check at the end that none had problems."""
    from tests.server.gateway.page_driver import ClipPage

    with contextlib.ExitStack() as stack:
        pages: list[ClipPage] = []

        def open_page(url: str, kind: type[ClipPage] = ClipPage, **options: Any) -> ClipPage:
            context = chromium.new_context(reduced_motion="reduce", **options)
            stack.callback(context.close)
            pages.append(kind(context.new_page(), url))
            return pages[-1]

        yield open_page
        assert [problem for page in pages for problem in page.problems] == []


@pytest.fixture
def clip(opened: Callable[..., ClipPage], gateway: str) -> ClipPage:
    """Open the page that classifies."""
    return opened(gateway).open()


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Write a file that is no image."""
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"no image at all")
    return path
