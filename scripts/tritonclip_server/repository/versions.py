"""Read and change the versions that a model repository loads and serves.

They are stored in the files that a server reads when it starts. So a restarted server serves the same version
as before.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tritonclip_server.repository.configs import (
    CONFIG,
    ENSEMBLES,
    MODELS,
    PYTHON_MODELS,
    read_configuration,
    read_versions,
    with_versions,
)
from tritonclip_server.repository.writer import SHOWN_DIGITS, RepositoryError, read_manifest

LEAD = "clip_zero_shot"
"""The ensemble that is switched last; its version counts as the served one."""
PREVIOUS = "served-before"
"""File in the repository's root with the number of the previously served version."""


@dataclass(frozen=True)
class Versions:
    """The versions of a repository.

    Attributes:
        present: Versions that have files.
        loaded: Versions that the Python models load.
        served: Version that the ensembles use.
        previous: Version that was served before; None if there was none, or its files were removed.
    """

    present: tuple[int, ...]
    loaded: tuple[int, ...]
    served: int
    previous: int | None


def versions_of(repository: Path, *, interrupted: bool = False) -> Versions:
    """Return the versions of a repository.

    Args:
        repository: A repository that `tritonclip-server prepare` wrote.
        interrupted: Accept ensembles that serve different versions, because all are switched next.

    Raises:
        RepositoryError: It is not a repository, an older release wrote it, or a switch was interrupted.
    """
    served = {model: _listed(repository, model)[0] for model in ENSEMBLES}
    if len(set(served.values())) > 1 and not interrupted:
        listing = ", ".join(f"{model} {version}" for model, version in served.items())
        raise RepositoryError(
            f"{repository}: a switch was interrupted and the ensembles serve different versions ({listing}); "
            "complete it with `tritonclip-server rollout rollback --to VERSION`"
        )
    present = _present(repository)
    previous = _previous(repository)
    return Versions(
        present=present,
        loaded=tuple(_listed(repository, PYTHON_MODELS[0])),
        served=served[LEAD],
        previous=previous if previous in present and previous != served[LEAD] else None,
    )


def check_consistent(repository: Path) -> None:
    """Check that the models of each version that is loaded come from one preparation.

    A `prepare` that is killed while it moves its files leaves old and new models, which load together.

    Raises:
        RepositoryError: They do not.
    """
    identities: dict[int, set[str]] = {}
    for path in sorted(repository.glob(f"*/{CONFIG}")):
        config = read_configuration(path.read_text(encoding="utf-8"))
        for version in config.version_policy.specific.versions:
            manifest = read_manifest(path.parent / str(version)) or {}
            named = [manifest.get("identity", ""), config.parameters["identity"].string_value]
            identities.setdefault(version, set()).update(filter(None, named))
    for version, found in identities.items():
        if len(found) > 1:
            names = ", ".join(identity[:SHOWN_DIGITS] for identity in sorted(found))
            raise RepositoryError(
                f"{repository}: the models of version {version} come from different preparations (identities "
                f"{names}), because one was interrupted; run `tritonclip-server prepare` again"
            )


def set_loaded(repository: Path, versions: Sequence[int]) -> None:
    """Set the versions that the Python models load when Triton next reads their configuration."""
    for model in PYTHON_MODELS:
        path = repository / model / CONFIG
        _replace(path, with_versions(path.read_text(encoding="utf-8"), sorted(versions)))


def set_served(repository: Path, model: str, version: int) -> None:
    """Set the version that an ensemble serves when Triton next reads its configuration."""
    content = (repository / model / str(version) / CONFIG).read_text(encoding="utf-8")
    _replace(repository / model / CONFIG, content)


def set_previous(repository: Path, version: int) -> None:
    """Store the number of the previously served version."""
    _replace(repository / PREVIOUS, f"{version}\n")


def remove_version(repository: Path, version: int) -> None:
    """Remove the files of a version."""
    for model in MODELS:
        shutil.rmtree(repository / model / str(version), ignore_errors=True)


@contextmanager
def locked(repository: Path, waiting: Callable[[str], None] | None = None) -> Iterator[int]:
    """Lock a repository against other rollouts and preparations, and return the descriptor of its directory.

    Args:
        repository: A directory.
        waiting: Called with a line for the user before another process is waited for; None fails instead.

    Raises:
        RepositoryError: The repository is locked, or there is no such directory.
    """
    try:
        descriptor = os.open(repository, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise RepositoryError(f"{repository} is not a model repository: {error.strerror}") from error
    try:
        _lock(descriptor, repository, waiting)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, repository: Path, waiting: Callable[[str], None] | None) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if waiting is None:
            raise RepositoryError(
                f"{repository}: another rollout or `tritonclip-server prepare` is in progress; "
                "try again when it has finished"
            ) from error
        waiting(f"waiting for another process that writes {repository}")
        fcntl.flock(descriptor, fcntl.LOCK_EX)


@contextmanager
def created_and_locked(directory: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Lock the directory of a repository, which is created first, and removed if it is empty at the end.

    Args:
        directory: The directory.
        waiting: See `locked`.
    """
    while True:
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory, waiting) as descriptor:
            if not _is_open_as(directory, descriptor):
                continue  # the process that was waited for has failed, and removed its empty directory
            try:
                yield
            finally:
                with suppress(OSError):
                    directory.rmdir()
            return


def _is_open_as(directory: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(directory.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _present(repository: Path) -> tuple[int, ...]:
    numbers = (path.name for path in (repository / LEAD).iterdir() if (path / CONFIG).is_file())
    return tuple(sorted(int(name) for name in numbers if name.isdecimal()))


def _listed(repository: Path, model: str) -> list[int]:
    path = repository / model / CONFIG
    try:
        versions = read_versions(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RepositoryError(f"{repository} is not a model repository: {path}: {error.strerror}") from error
    if not versions:
        raise RepositoryError(
            f"{path} names no versions; write the repository again with `tritonclip-server prepare`"
        )
    return versions


def _previous(repository: Path) -> int | None:
    try:
        return int((repository / PREVIOUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _replace(path: Path, content: str) -> None:
    """Replace a file in one step."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(content, encoding="utf-8")
    fresh.replace(path)
