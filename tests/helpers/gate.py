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

_method = TritonPythonModel.{method}


def _held(self, requests):
    while _pathlib.Path({closed!r}).exists():
        _pathlib.Path({holds!r}).touch()
        _time.sleep(0.005)
    _pathlib.Path({holds!r}).unlink(missing_ok=True)
    with open({batches!r}, "a", encoding="utf-8") as file:
        print(len(requests), file=file)
    return _method(self, requests)


TritonPythonModel.{method} = _held
"""


class Gate:
    """Gates of models: files that say which ones are closed, hold a batch, and let which batches pass.

    Args:
        directory: An empty folder.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def install(self, repository: Path, model: str, method: str = "execute") -> None:
        """Put the gate in front of a model of a repository that is not served yet.

        Args:
            repository: The model repository.
            model: Name of the model.
            method: "execute", or "_run" to hold batches that the model has already counted.
        """
        files = {"closed": self._closed(model), "holds": self._holds(model), "batches": self._batches(model)}
        code = CODE.format(method=method, **{name: str(path) for name, path in files.items()})
        self._batches(model).touch()
        append_code(repository / model / "1" / "model.py", code)

    @contextlib.contextmanager
    def closed(self, model: str = "vision_encoder") -> Iterator[None]:
        """Hold all batches of the model until the end of the context, which waits until none is held."""
        self._closed(model).touch()
        try:
            yield
        finally:
            self._closed(model).unlink(missing_ok=True)
            wait_until(lambda: not self._holds(model).exists(), f"{model} still holds a batch")

    def wait_until_it_holds(self, model: str = "vision_encoder") -> None:
        """Wait until the model has a batch that the closed gate holds."""
        wait_until(self._holds(model).exists, f"no batch of {model} reached the closed gate")

    def batches(self, model: str = "vision_encoder") -> list[int]:
        """Return the number of requests in each batch so far."""
        return [int(line) for line in self._batches(model).read_text(encoding="utf-8").split()]

    def _closed(self, model: str) -> Path:
        return self._directory / f"{model}.closed"

    def _holds(self, model: str) -> Path:
        return self._directory / f"{model}.holds"

    def _batches(self, model: str) -> Path:
        return self._directory / f"{model}.batches"
