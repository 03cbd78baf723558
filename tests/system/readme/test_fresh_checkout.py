"""The commands of README.md in a new clone and an empty home directory, as a reader would type them.

Nothing of the environment that runs the tests is on the path. The commands use the default ports, so ports
8000, 8001, 8002 and 8080 must be free. Installing takes minutes and gigabytes; `pytest -rP` prints how many.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.programs import require
from tests.helpers.servers import ROOT, Servers
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.slow
OWN = re.compile("(PYTHON|PYTEST|TRITONCLIP_|VIRTUAL_ENV|COVERAGE|MAKE|MFLAGS|VENV|XDG_.*_HOME|PS1)")
"""Variables of the run of the tests, which a new terminal would lack."""
HUB = "openai/clip-vit-base-patch32"
DEMO = "scripts/demo/checkpoint"


@dataclass(frozen=True)
class Reader:
    """Somebody with a new clone and an empty home directory, who types commands of the README.

    Attributes:
        clone: Root of the clone, in which the commands run.
        home: The home directory, which holds the caches.
    """

    clone: Path
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables of this machine, such as those of indexes and certificates, with a new HOME."""
        own = str(Path(sys.executable).parent)
        path = [folder for folder in os.environ["PATH"].split(os.pathsep) if folder != own]
        kept = {name: value for name, value in os.environ.items() if not OWN.match(name)}
        new = {"HOME": str(self.home), "PATH": os.pathsep.join(path), "TERM": "dumb"}
        return kept | new | {"PIP_REQUIRE_VIRTUALENV": "1"}  # never into the Python of this machine

    def types(self, *blocks: str) -> str:
        """Run blocks in a new terminal and return its output; fail if a command fails."""
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", "\n".join(blocks)],
            cwd=self.clone,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    @contextlib.contextmanager
    def keeps_running(self, *blocks: str, ready: str = r"\bready: ") -> Iterator[None]:
        """Run blocks whose last command is a server, wait until it prints `ready`, and end it by Ctrl-C."""
        output = self.home / f"{uuid.uuid4()}.txt"
        with output.open("w", encoding="utf-8") as written:
            terminal = subprocess.Popen(
                ["bash", "-ec", "\n".join(blocks)],
                cwd=self.clone,
                env=self.environment,
                stdout=written,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def is_ready() -> bool:
            shown = output.read_text("utf-8")
            assert terminal.poll() is None, shown
            return re.search(ready, shown) is not None

        try:
            wait_until(is_ready, lambda: output.read_text("utf-8"), timeout_s=1800)
            yield
        finally:
            os.killpg(terminal.pid, signal.SIGINT)
            terminal.wait(timeout=120)
        by_ctrl_c = (0, 130, -signal.SIGINT)  # the last one: make ends itself by the signal
        assert terminal.returncode in by_ctrl_c, output.read_text("utf-8")

    def size_mb(self) -> float:
        """Return the size of all that the commands have written and downloaded, in 10**6 bytes."""
        done = subprocess.run(
            ["du", "--summarize", "--bytes", self.home], capture_output=True, text=True, check=True
        )
        return int(done.stdout.split()[0]) / 1e6


def make_reader(home: Path) -> Reader:
    reader = Reader(home / "tritonclip", home)
    subprocess.run(["git", "clone", "--quiet", ROOT, reader.clone], check=True)
    return reader


@pytest.fixture(scope="module")
def with_pip(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return make_reader(tmp_path_factory.mktemp("pip"))


@pytest.fixture(scope="module")
def with_make(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return make_reader(tmp_path_factory.mktemp("make"))


def blocks_of(reader: Reader, page: str, language: str) -> list[str]:
    text = (reader.clone / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_quick_start_with_pip_classifies_a_photo(with_pip: Reader, servers: Servers) -> None:
    """The checkpoint is the demo, which the README names for readers without a network."""
    require("curl", "curl")
    servers.command("the quick start of the README starts it")
    install_and_serve, classify, *_ = blocks_of(with_pip, "README.md", "text")
    assert HUB in install_and_serve
    shutil.copy(with_pip.clone / "scripts/demo/images/digit_7.jpg", with_pip.clone / "photo.jpg")
    with with_pip.keeps_running(install_and_serve.replace(HUB, DEMO)):
        answer = with_pip.types(classify)
        page = with_pip.types("curl -s --fail http://localhost:8080")
    assert {"cat", "dog"} <= set(answer.split())
    assert "<title>" in page


def test_second_demo_installs_and_prepares_nothing(
    with_make: Reader, servers: Servers, record_property: Callable[[str, object], None]
) -> None:
    require("make", "make")
    cloned_mb = with_make.size_mb()
    for run in ("first", "second"):
        servers.command(f"the {run} make demo starts it")
        began = time.monotonic()
        output = with_make.types("make demo")
        record_property(f"{run}_demo_s", time.monotonic() - began)
        record_property(f"{run}_demo_mb", with_make.size_mb() - cloned_mb)
        assert "9 of 9 images are classified as expected" in output
        assert ("install.sh" in output) == (run == "first")
        assert ("up to date: version 1 holds" in output) == (run == "second")


def test_examples_of_the_readme_succeed_as_typed(with_make: Reader, servers: Servers) -> None:
    require("curl", "curl")
    require("make", "make")
    servers.command("make up starts it")
    (program,) = blocks_of(with_make, "README.md", "python")
    (command, to_triton, to_gateway) = blocks_of(with_make, "README.md", "sh")
    activate = ". .venv/bin/activate"
    with with_make.keeps_running("make up"):
        assert "a red circle" in with_make.types(activate, f"python - <<'END'\n{program}END")
        assert "the digit 7" in with_make.types(activate, command)
        assert '"token_counts"' in with_make.types(to_triton)
        assert "the digit 7" in with_make.types(to_gateway)


def test_gateway_of_its_readme_serves_in_front_of_make_serve(with_make: Reader, servers: Servers) -> None:
    require("curl", "curl")
    require("make", "make")
    servers.command("make serve starts it")
    page = (with_make.clone / "client/src/tritonclip/gateway/README.md").read_text("utf-8")
    install_and_run = textwrap.dedent(
        "\n".join(re.findall(r"^ {4}(?:pip|tritonclip) .*$", page, re.MULTILINE))
    )
    assert install_and_run.count("\n") == 1
    to_gateway = blocks_of(with_make, "README.md", "sh")[2]
    activate = ". .venv/bin/activate"
    with (
        with_make.keeps_running("make serve"),
        with_make.keeps_running(activate, install_and_run, ready="Uvicorn running"),
    ):
        assert "the digit 7" in with_make.types(to_gateway)


def test_commands_of_the_demo_repeat_its_pictures(with_pip: Reader) -> None:
    """The training and the unit tests, which need more packages, are left out."""
    page = "scripts/demo/README.md"
    (install,) = re.findall(r"`(pip install [^`]+)`", (with_pip.clone / page).read_text("utf-8"))
    (program,) = blocks_of(with_pip, page, "python")
    evaluate, write_digits, _, draw, _ = blocks_of(with_pip, page, "sh")
    activate = "python3 -m venv .venv && . .venv/bin/activate"
    accuracies = with_pip.types(activate, install, evaluate)
    assert (with_pip.clone / "accuracy.json").exists()
    assert "digit" in accuracies
    with_pip.types(activate, write_digits, draw, f"python - <<'END'\n{program}END")
    assert (with_pip.clone / "build/evaluation/digits").is_dir()
    with_pip.types("git diff --exit-code --stat")
