"""Paths of the checkout, its programs as a user runs them, and the servers that the tests start."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from tritonclip_server.serving.launcher import EmbeddedTriton, ServerOptions

ROOT = Path(__file__).parents[2]
DEMO_CHECKPOINT = ROOT / "scripts" / "demo" / "checkpoint"
SMALL_CACHE_BYTES = 4_000_000
"""Label cache of the shared server: less than the 10,000 labels of one test need."""

PRELOADED_LABELS = ["This is a photo of a preloaded label.", "ein vorab kodiertes Etikett"]
"""Labels that servers on the demo checkpoint encode when they load."""

Prepare = Callable[..., Path]


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script of `scripts/` from the checkout."""
    command = [sys.executable, f"scripts/{script}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python code in a new interpreter."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def prepare_repository(output: Path, *arguments: object) -> Path:
    """Prepare a model repository in this process with the command's arguments, and return its path."""
    from tritonclip_server.repository.prepare import main

    done = CliRunner().invoke(main, [*map(str, arguments), "--output", str(output)])
    assert done.exit_code == 0, done.output
    return output


@dataclass
class Servers:
    """Starts the servers of a run, and records each of them with its reason.

    Attributes:
        started: One line for each server: the name of a variant, or the reason for a separate server.
    """

    started: list[str] = field(default_factory=list)

    def new(self, repository: Path, why: str, **options: Any) -> EmbeddedTriton:
        """Return a server on free ports that is not started yet.

        Args:
            repository: The model repository.
            why: The reason why no shared server will do, in a few words.
            options: Fields of `ServerOptions`.
        """
        self.started.append(why)
        ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
        return EmbeddedTriton(repository, ServerOptions(**{**ports, **options}))

    @contextlib.contextmanager
    def run(self, repository: Path, why: str, **options: Any) -> Iterator[EmbeddedTriton]:
        """Start a server on free ports, and stop it at the end. The arguments are those of `new`."""
        with self.new(repository, why, **options) as server:
            yield server

    def command(self, why: str) -> None:
        """Record a server that a command starts in another process."""
        self.started.append(why)


STARTS_SERVERS: set[Callable[..., Any]] = set()
"""Functions of the fixtures that start servers."""


def starts_servers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Declare that the fixture of a function starts servers; tests that reach it are marked `server`."""
    STARTS_SERVERS.add(function)
    return function
