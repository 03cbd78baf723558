"""Which versions a model repository has, has loaded and serves, as its files say; and how to change that.

The files are what a server reads when it starts, so it serves after a restart what it served before.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tritonclip_server.repository.configs import (
    CONFIG,
    ENSEMBLES,
    MODELS,
    PYTHON_MODELS,
    read_versions,
    with_versions,
)
from tritonclip_server.repository.writer import RepositoryError

LEAD = "clip_zero_shot"
"""The ensemble that is switched last: it says what is served."""
PREVIOUS = "served-before"
"""A file of the repository's root, with the version that was served before this one."""


@dataclass(frozen=True)
class Versions:
    """The versions of a repository.

    Attributes:
        present: Those that lie in it.
        loaded: Those that the Python models load.
        served: The one that the ensembles answer with.
        previous: The one that was served before; None where there was none, or it is gone.
    """

    present: tuple[int, ...]
    loaded: tuple[int, ...]
    served: int
    previous: int | None


def versions_of(repository: Path, *, interrupted: bool = False) -> Versions:
    """Reads the versions of a repository.

    Args:
        repository: As `prepare_weights.py` writes it.
        interrupted: Whether the ensembles may serve different versions, since they are switched next.

    Raises:
        RepositoryError: It is none, is one of an older kind, or a switch was interrupted.
    """
    served = {model: _one(repository, model) for model in ENSEMBLES}
    if len(set(served.values())) > 1 and not interrupted:
        listing = ", ".join(f"{model} {version}" for model, version in served.items())
        raise RepositoryError(
            f"{repository}: a switch was interrupted, the ensembles serve different versions ({listing}); "
            f"end it with rollout.py rollback --to VERSION"
        )
    present = _present(repository)
    previous = _previous(repository)
    return Versions(
        present=present,
        loaded=tuple(_listed(repository, PYTHON_MODELS[0])),
        served=served[LEAD],
        previous=previous if previous in present and previous != served[LEAD] else None,
    )


def set_loaded(repository: Path, versions: Sequence[int]) -> None:
    """Has the Python models load these versions, once Triton reads their configuration anew."""
    for model in PYTHON_MODELS:
        path = repository / model / CONFIG
        _replace(path, with_versions(path.read_text(encoding="utf-8"), sorted(versions)))


def set_served(repository: Path, model: str, version: int) -> None:
    """Has one ensemble serve a version, once Triton reads its configuration anew."""
    content = (repository / model / str(version) / CONFIG).read_text(encoding="utf-8")
    _replace(repository / model / CONFIG, content)


def note_previous(repository: Path, version: int) -> None:
    """Notes which version was served before the present one."""
    _replace(repository / PREVIOUS, f"{version}\n")


def remove_version(repository: Path, version: int) -> None:
    """Removes a version's files."""
    for model in MODELS:
        shutil.rmtree(repository / model / str(version), ignore_errors=True)


@contextmanager
def locked(repository: Path) -> Iterator[None]:
    """Keeps other rollouts out of a repository meanwhile.

    Raises:
        RepositoryError: One is under way, or there is no such directory.
    """
    try:
        descriptor = os.open(repository, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise RepositoryError(f"{repository} is no model repository: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise RepositoryError(
            f"{repository}: another rollout is under way; wait until it has ended"
        ) from error
    finally:
        os.close(descriptor)


def _present(repository: Path) -> tuple[int, ...]:
    numbers = (path.name for path in (repository / LEAD).iterdir() if (path / CONFIG).is_file())
    return tuple(sorted(int(name) for name in numbers if name.isdecimal()))


def _listed(repository: Path, model: str) -> list[int]:
    path = repository / model / CONFIG
    try:
        versions = read_versions(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RepositoryError(f"{repository} is no model repository: {path}: {error.strerror}") from error
    if not versions:
        raise RepositoryError(
            f"{path} names no versions; prepare the repository anew with prepare_weights.py"
        )
    return versions


def _one(repository: Path, model: str) -> int:
    return _listed(repository, model)[0]


def _previous(repository: Path) -> int | None:
    try:
        return int((repository / PREVIOUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _replace(path: Path, content: str) -> None:
    """Writes a file whole or not at all."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(content, encoding="utf-8")
    fresh.replace(path)
