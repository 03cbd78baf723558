"""The model repository of a checkpoint that is served directly: it is prepared first, in the user's cache.

The cache is `$TRITONCLIP_CACHE_DIR`, or else `tritonclip` in `$XDG_CACHE_HOME` or `~/.cache`. Its files can
be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from tritonclip_server.repository.checkpoint_files import CheckpointFiles, file_sha256, locate
from tritonclip_server.repository.identity import checkpoint_key
from tritonclip_server.repository.prepare import (
    CheckpointSettings,
    Target,
    fit_to_machine,
    prepare_version,
)
from tritonclip_server.repository.profiles import AUTO
from tritonclip_server.repository.versions import created_and_locked, versions_of
from tritonclip_server.repository.writer import RepositoryError
from tritonclip_server.serving.launcher import is_model_repository

HUB_ID = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?")
VERSION = 1


def prepared_repository(
    source: str, directory: Path | None, settings: CheckpointSettings, report: Callable[[str], None]
) -> Path:
    """Return the model repository of a checkpoint, and prepare it unless it is up to date.

    Args:
        source: A directory in Hugging Face format, or a hub id.
        directory: Directory for the repository; None chooses one in the cache.
        settings: Options of the checkpoint.
        report: Called with each line for the user.

    Raises:
        CheckpointError: The checkpoint cannot be found or served.
        RepositoryError: The source is not a checkpoint, a setting is wrong, or a rollout switched the
            directory to another version.
    """
    _check_source(source)
    if not Path(source).is_dir():
        report(f"looking for {source} on the Hugging Face Hub")
    files = locate(source, settings.revision, report)
    directory = directory or cache_directory() / "repositories" / repository_name(files, settings)
    with created_and_locked(directory, report):
        _check_served_version(directory)
        prepare_version(files, Target(directory, VERSION), fit_to_machine(settings, report), report)
    return directory


def cache_directory() -> Path:
    """Return the directory for files that can be made again.

    Raises:
        RepositoryError: There is no home directory.
    """
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise RepositoryError("no home directory; set TRITONCLIP_CACHE_DIR, or give --repository") from error
    return Path(os.environ.get("TRITONCLIP_CACHE_DIR") or home / "tritonclip")


def repository_name(files: CheckpointFiles, settings: CheckpointSettings) -> str:
    """Return a name for the repository of a checkpoint: its name, its revision, and a digest of the settings.

    A local directory has no revision, so the digest of its weights and settings takes that place.
    """
    if Path(files.source).is_dir():
        name, revision = Path(files.source).resolve().name, checkpoint_key(files)
    else:
        name, revision = files.source.replace("/", "--"), files.revision
    parts = [name, revision[:12]]
    if settings.parameters or settings.labels or settings.profile != AUTO:
        labels = file_sha256(settings.labels) if settings.labels else None
        profile = [settings.profile] if settings.profile != AUTO else []
        changes = json.dumps([settings.parameters, labels, *profile], sort_keys=True)
        parts.append(hashlib.sha256(changes.encode()).hexdigest()[:8])
    return "--".join(parts)


def _check_source(source: str) -> None:
    path = Path(source)
    if path.is_dir() and not (path / "config.json").is_file():
        raise RepositoryError(
            f"{source} is not a model repository (it has no */config.pbtxt), and not a checkpoint (it has no "
            "config.json): write a repository with `tritonclip-server prepare`"
        )
    if not path.is_dir() and (path.exists() or not HUB_ID.fullmatch(source)):
        raise RepositoryError(
            f"{source} is not a directory, and not a hub id such as openai/clip-vit-base-patch32"
        )


def _check_served_version(directory: Path) -> None:
    """Check that no rollout has switched a repository to another checkpoint."""
    if not is_model_repository(directory):
        return
    served = versions_of(directory).served
    if served != VERSION:
        raise RepositoryError(
            f"{directory} serves version {served} since a rollout; serve it as it is with "
            f"`tritonclip-server serve {directory}`, or give another --repository"
        )
