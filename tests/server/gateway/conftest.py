"""Fixtures: gateways in front of the shared embedded Triton, with and without keys, and a browser."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.helpers.gateway import KEY, KEY_LINE
from tests.helpers.servers import ROOT
from tests.server.gateway.page_driver import ClipPage, launch
from tritonclip_server.benchmarks.gateway_process import GatewayProcess, running
from tritonclip_server.serving.launcher import EmbeddedTriton

AXE = ROOT / "build" / "gateway" / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="session")
def open_gateway(server: EmbeddedTriton) -> Iterator[GatewayProcess]:
    """Start a gateway without keys."""
    with running(server.grpc_url) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def gateway(open_gateway: GatewayProcess) -> str:
    """Return the URL of the open gateway."""
    return open_gateway.url


@pytest.fixture(scope="session")
def gateway_with_keys(server: EmbeddedTriton) -> Iterator[GatewayProcess]:
    """Start a gateway with one API key."""
    with running(server.grpc_url, environ={"TRITONCLIP_GATEWAY_KEYS": KEY_LINE}, key=KEY) as gateway:
        yield gateway


@pytest.fixture
def unused_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def command(name: str, package: str) -> str:
    """Return the path of a program. If it is missing, skip the test, or fail in CI."""
    found = shutil.which(name)
    if found is None and "CI" not in os.environ:
        pytest.skip(f"{name} not found; the page's tests need: apt-get install {package}")
    assert found, f"{name} not found; apt-get install {package}"
    return found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Start a browser for one module, because Playwright keeps an event loop in the thread of the tests."""
    with sync_playwright() as playwright:
        browser = launch(playwright, command("chromium", "chromium"))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """Return the source of axe-core, installed by npm if necessary."""
    if not AXE.exists():
        npm = command("npm", "npm")
        AXE.parents[2].mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests" / "server" / "gateway" / "package.json", AXE.parents[2])
        install = [npm, "install", "--silent", "--prefix", AXE.parents[2]]
        assert subprocess.run(install, check=False, timeout=300).returncode == 0
    return AXE.read_text(encoding="utf-8")


@pytest.fixture
def opened(chromium: Browser) -> Iterator[Callable[..., ClipPage]]:
    """Return a function that opens pages, and check at the end that none had problems."""
    with contextlib.ExitStack() as stack:
        pages: list[ClipPage] = []

        def open_page(url: str, kind: type[ClipPage] = ClipPage, **options: Any) -> ClipPage:
            context = chromium.new_context(reduced_motion="reduce", **options)
            stack.callback(context.close)
            pages.append(kind(context.new_page(), url))
            return pages[-1]

        yield open_page
        assert [problem for page in pages for problem in page.problems] == []
