"""Servers for the tests: the embedded Triton. Most tests share one, which starts on its first use."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.servers import PRELOADED_LABELS, ROOT, SMALL_CACHE_BYTES, Prepare, run_script
from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions


@pytest.fixture(scope="session")
def prepare(tmp_path_factory: pytest.TempPathFactory) -> Prepare:
    """Return a function that prepares a model repository with the given arguments and returns its path."""

    def _prepare(*arguments: object) -> Path:
        repository = tmp_path_factory.mktemp("repository") / "models"
        done = run_script("prepare_weights.py", *arguments, "--output", repository)
        assert done.returncode == 0, done.stderr
        return repository

    return _prepare


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a full-size ViT-B/32 with random weights in Hugging Face format."""
    from tritonclip_server.repository.random_checkpoint import write_random_checkpoint

    directory = tmp_path_factory.mktemp("random") / "vit-b-32"
    write_random_checkpoint("vit-b-32", directory)
    return directory


@pytest.fixture(scope="session")
def demo_repository(prepare: Prepare, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare the demo checkpoint in float32 with a small label cache and preloaded labels."""
    labels = tmp_path_factory.mktemp("labels") / "labels.txt"
    labels.write_text("\n".join(PRELOADED_LABELS), encoding="utf-8")
    cache = f"text_encoder.cache_bytes={SMALL_CACHE_BYTES}"
    options = ("--precision", "float32", "--set", cache, "--labels", labels)
    return prepare("scripts/demo/checkpoint", *options)


@pytest.fixture(scope="session")
def server(demo_repository: Path) -> Iterator[EmbeddedTriton]:
    """Start the server that most tests share, on the demo checkpoint in float32."""
    with EmbeddedTriton(demo_repository, ServerOptions(http_port=0, grpc_port=0, metrics_port=0)) as running:
        yield running


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled towers in the checkout instead of the user's cache, and restore Ctrl-C.

    A shell makes background processes ignore SIGINT, and all processes that the tests start inherit this.
    """
    os.environ.setdefault("TRITONCLIP_CACHE_DIR", str(ROOT / "build" / "compiled"))
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a server."""
    for item in items:
        if "server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.server)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests recorded, such as the largest difference from transformers."""
    measured = [report for report in terminalreporter.getreports("passed") if report.user_properties]
    if measured:
        terminalreporter.section("measured")
    for report in measured:
        figures = ", ".join(f"{name} {value:.7g}" for name, value in report.user_properties)
        terminalreporter.write_line(f"{report.nodeid.partition('::')[2]}: {figures}")
