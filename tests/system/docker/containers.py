"""Containers of the images of docker/, run by podman without an engine."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from docker.build_images import STORE, BuildError, Podman

from tests.helpers.programs import skip_unless_ci
from tests.helpers.waiting import wait_until

HOPELESS_S = 300
STOP_S = 120
HARDENED = [
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--tmpfs=/tmp:mode=1777,exec",
]


def require_podman() -> Podman:
    """Return podman with the store of `make images`; skip the test if this machine cannot run it."""
    try:
        return Podman(STORE)
    except BuildError as error:
        skip_unless_ci(str(error))


class Container:
    """A running container in the host's network; a context manager.

    Args:
        podman: podman whose store has the image.
        image: Name of the image.
        arguments: Arguments after the entry point.
        options: Options of `podman run`.
    """

    def __init__(
        self, podman: Podman, image: str, arguments: Sequence[str], options: Sequence[str] = HARDENED
    ) -> None:
        self.podman, self.name = podman, f"test-{uuid.uuid4().hex[:8]}"
        limits = [
            "--ulimit=nofile=1024:4096",
            "--ulimit=nproc=4096:8192",
        ]  # a sandbox may forbid raising them
        run = ["run", "--detach", "--name", self.name, "--network=host", "--no-healthcheck", *limits]
        self._run = [*run, *options, f"localhost/{image}", *arguments]

    def __enter__(self) -> Container:
        self.podman.call(*self._run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.podman.call("rm", "--force", "--time", "2", self.name)

    def log(self) -> str:
        """Return the output of the container so far."""
        done = subprocess.run(
            self.podman.command("logs", self.name),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.stdout

    def wait_for(self, text: str) -> str:
        """Wait until the log contains the text, and return the log."""

        def is_logged() -> bool:
            found = text in self.log()
            assert found or self.state()["Running"], self.log()
            return found

        wait_until(is_logged, self.log, HOPELESS_S, interval_s=0.5)
        return self.log()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container."""
        call = self.podman.command("exec", self.name, *command)
        return subprocess.run(call, capture_output=True, text=True, check=False)

    def state(self) -> dict[str, Any]:
        """Return the state of the container."""
        found: dict[str, Any] = json.loads(self.podman.call("inspect", self.name))[0]["State"]
        return found

    def stop(self) -> int:
        """Stop the container with SIGTERM, as an orchestrator does, and return its exit code."""
        self.podman.call("stop", "--time", str(STOP_S), self.name)
        return int(self.state()["ExitCode"])


def configuration(podman: Podman, image: str) -> dict[str, Any]:
    """Return the configuration of an image."""
    found: dict[str, Any] = json.loads(podman.call("image", "inspect", f"localhost/{image}"))[0]
    return {**found["Config"], "Healthcheck": found["Healthcheck"]}
