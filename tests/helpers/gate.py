"""A gate in front of a model: tests hold a model's batches until everything is as they need it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.variants import append_code
from tests.helpers.waiting import wait_until

CODE = """

import pathlib as _pathlib
import time as _time

_execute = TritonPythonModel.execute


def _held(self, requests):
    while _pathlib.Path({closed!r}).exists():
        _pathlib.Path({holds!r}).touch()
        _time.sleep(0.005)
    _pathlib.Path({holds!r}).unlink(missing_ok=True)
    return _execute(self, requests)


TritonPythonModel.execute = _held
"""


class Gate:
    """A file that exists while the gate is closed, and one that exists while a batch waits.

    Args:
        directory: An empty folder.
    """

    def __init__(self, directory: Path) -> None:
        self._closed, self._holds = directory / "closed", directory / "holds"

    def install(self, repository: Path, model: str) -> None:
        """Put the gate in front of a model of a repository that is not served yet."""
        code = CODE.format(closed=str(self._closed), holds=str(self._holds))
        append_code(repository / model / "1" / "model.py", code)

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Hold all batches of the model until the end of the context."""
        self._closed.touch()
        try:
            yield
        finally:
            self._closed.unlink(missing_ok=True)

    def wait_until_it_holds(self) -> None:
        """Wait until the model has a batch that the gate holds."""
        wait_until(self._holds.exists, "no batch reached the closed gate")
