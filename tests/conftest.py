"""Fixtures that all tests share, above all the servers; marks that follow from them; closing reports."""

from __future__ import annotations

import tests.helpers.torchvision_reference  # isort: skip  # noqa: F401
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.helpers.programs import MISSING, missing_packages
from tests.helpers.servers import (
    PRELOADED_LABELS,
    ROOT,
    SMALL_CACHE_BYTES,
    STARTS_SERVERS,
    Prepare,
    Servers,
    prepare_repository,
    starts_servers,
)
from tests.helpers.variants import VARIANTS
from tritonclip_server.serving.launcher import EmbeddedTriton

if TYPE_CHECKING:
    from tests.helpers.certificates import Certificates
    from tests.helpers.gate import Gate
    from tests.helpers.otlp_receiver import Receiver

SERVERS = pytest.StashKey[Servers]()


@pytest.fixture(scope="session")
def prepare(tmp_path_factory: pytest.TempPathFactory) -> Prepare:
    """Return a function that prepares a model repository with the given arguments and returns its path."""

    def _prepare(*arguments: object) -> Path:
        return prepare_repository(tmp_path_factory.mktemp("repository") / "models", *arguments)

    return _prepare


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a full-size ViT-B/32 with random weights in Hugging Face format."""
    from tritonclip_server.repository.random_checkpoint import write_random_checkpoint

    directory = tmp_path_factory.mktemp("random") / "vit-b-32"
    write_random_checkpoint("vit-b-32", directory)
    return directory


@pytest.fixture(scope="session")
def preloaded_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the labels that servers encode when they load."""
    labels = tmp_path_factory.mktemp("labels") / "labels.txt"
    labels.write_text("\n".join(PRELOADED_LABELS), encoding="utf-8")
    return labels


@pytest.fixture(scope="session")
def demo_repository(prepare: Prepare, preloaded_labels: Path) -> Path:
    """Prepare the demo checkpoint in float32 with a small label cache and preloaded labels."""
    cache = f"text_encoder.cache_bytes={SMALL_CACHE_BYTES}"
    options = ("--precision", "float32", "--set", cache, "--labels", preloaded_labels)
    return prepare("scripts/demo/checkpoint", *options)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Issue the certificates of the variants with TLS."""
    from tests.helpers.certificates import Certificates

    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """Receive the spans of the variant "traced"."""
    from tests.helpers.otlp_receiver import receiving

    with receiving() as running:
        yield running


@pytest.fixture(scope="session")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """Return the gates in front of two models of the variant "overload"."""
    from tests.helpers.gate import Gate

    return Gate(tmp_path_factory.mktemp("gate"))


@pytest.fixture(scope="session")
@starts_servers
def servers(request: pytest.FixtureRequest) -> Servers:
    """Start servers for one test or module, each with the reason why no shared one will do."""
    return request.config.stash[SERVERS]


@pytest.fixture(scope="session")
@starts_servers
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedTriton]:
    """Start a variant of the server, once for all tests that declare it; see tests/helpers/variants.py."""
    repository, options = VARIANTS[request.param](request)
    with request.config.stash[SERVERS].run(repository, f"variant {request.param}", **options) as running:
        yield running


@pytest.fixture(autouse=True)
def _pillows_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore Pillow's limit of pixels, which the decoder of the models sets for its whole process."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled towers in the checkout instead of the user's cache, and restore Ctrl-C.

    A shell makes background processes ignore SIGINT, and all processes that the tests start inherit this.
    """
    os.environ.setdefault("TRITONCLIP_CACHE_DIR", str(ROOT / "build" / "compiled"))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[SERVERS] = Servers()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test that reaches `server` the variants that it declares.

    pytest runs all tests with the same session-wide parameter together.
    """
    if "server" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("variant")
        names = mark.args if mark else ("float32",)
        ids = names if len(names) > 1 else [pytest.HIDDEN_PARAM]
        metafunc.parametrize("server", names, indirect=True, scope="session", ids=ids)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that reach a fixture which starts servers, directly or through others."""
    for item in items:
        if isinstance(item, pytest.Function) and any(
            definition.func in STARTS_SERVERS
            for definitions in item._fixtureinfo.name2fixturedefs.values()
            for definition in definitions
        ):
            item.add_marker(pytest.mark.server)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the main process which servers this worker process has started, if tests run in parallel."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["servers"] = session.config.stash[SERVERS].started


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_testnodedown(node: Any) -> None:
    """Collect the servers that a worker process has started."""
    node.config.stash[SERVERS].started += getattr(node, "workeroutput", {}).get("servers", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures that tests recorded, the servers they started, and how to run the skipped ones."""
    measured = [report for report in terminalreporter.getreports("passed") if report.user_properties]
    if measured:
        terminalreporter.section("measured")
    for report in measured:
        figures = ", ".join(f"{name} {value:.7g}" for name, value in report.user_properties)
        terminalreporter.write_line(f"{report.nodeid.partition('::')[2]}: {figures}")
    if started := config.stash[SERVERS].started:
        terminalreporter.section(f"servers started: {len(started)}")
    for why in started:
        terminalreporter.write_line(why)
    missing = [report for report in terminalreporter.getreports("skipped") if MISSING in str(report.longrepr)]
    if missing:
        packages = sorted(
            {package for report in missing for package in missing_packages(str(report.longrepr))}
        )
        terminalreporter.section("skipped")
        terminalreporter.write_line(
            f"{len(missing)} tests need programs that are missing; to run them: apt-get install "
            f"{' '.join(packages)} && make test-all"
        )
