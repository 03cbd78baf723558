"""Check that a version directory holds what was prepared, before a model loads it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from clip_common.parameters import Parameters

MANIFEST = "manifest.json"
BLOCK_BYTES = 1 << 20
SHOWN_DIGITS = 16
"""Digits of a checksum in an error text."""
FIX = "prepare the repository again with `tritonclip-server prepare`"


class VersionError(RuntimeError):
    """A version that differs from what was prepared; the text names the file or parameter and the fix."""


def check_version(directory: Path, parameters: Parameters) -> None:
    """Compare a version's weights, its settings, and the parameters that change answers with its manifest.

    A damaged weight is still a number: only its checksum shows that the answers would be wrong. The code is
    not compared, so that it can be instrumented in place.

    Args:
        directory: The version directory.
        parameters: The parameters of the model's `config.pbtxt`.

    Raises:
        VersionError: A file or a parameter differs.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        files, prepared = manifest["files"], manifest["parameters"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise VersionError(f"{directory / MANIFEST} is missing or damaged; {FIX}") from error
    for name, facts in files.items():
        if not name.endswith(".py"):
            _check_file(directory / name, facts["sha256"])
    for name, value in prepared.items():
        if parameters.text(name) != value:
            raise VersionError(
                f"config.pbtxt sets {name} to '{parameters.text(name)[:100]}', but {directory} was prepared "
                f"with '{value[:100]}': give `tritonclip-server prepare` the wanted value with --set"
            )


def _check_file(path: Path, expected: str) -> None:
    try:
        found = file_sha256(path)
    except OSError as error:
        raise VersionError(f"{path} cannot be read ({error.strerror}); {FIX}") from error
    if found != expected:
        raise VersionError(
            f"{path} was changed or damaged after it was prepared: expected sha256 "
            f"{expected[:SHOWN_DIGITS]}, found {found[:SHOWN_DIGITS]}; {FIX}"
        )


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    digest, block = hashlib.sha256(), memoryview(bytearray(BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(block[:size])
    return digest.hexdigest()
