"""Find the files of a checkpoint, in a directory or on the Hugging Face hub, as transformers chooses them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tritonclip_server.repository.progress import advance, shown_progress

SETTINGS = ["*.json", "merges.txt"]
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names of the weights; transformers takes the first that exists. An index names files with tensors."""
INDEX_SUFFIX = ".index.json"
REASON_LENGTH = 200


class CheckpointError(ValueError):
    """A checkpoint that cannot be served; the text is one line with its name, the reason and the fix."""


@dataclass(frozen=True)
class CheckpointFiles:
    """The directory of a checkpoint, its weights files and their digest."""

    source: str
    revision: str
    directory: Path
    weights: tuple[Path, ...]
    sha256: str

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON object from the directory.

        Raises:
            CheckpointError: The file is missing, damaged or holds something else.
        """
        return _read_json(self.directory / name, self.source)


def locate(
    source: str, revision: str | None = None, report: Callable[[str], None] = lambda text: None
) -> CheckpointFiles:
    """Find a checkpoint's files, and download them if `source` is a hub id.

    Args:
        source: A directory, or a hub id such as "openai/clip-vit-base-patch32".
        revision: Commit, branch or tag on the hub; its default branch if None.
        report: Called with a line when reading the weights takes long.

    Raises:
        CheckpointError: There is no such directory or hub id, no network, or it has no weights.
    """
    if Path(source).is_dir():
        directory, commit = Path(source), "local"
    else:
        directory = _download_checkpoint(source, revision)
        commit = directory.name
    weights = _weight_files(directory, source)
    size = sum(path.stat().st_size for path in weights)
    with shown_progress(f"reading {source}", size, report):
        return CheckpointFiles(source, commit, directory, weights, _digest(weights))


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, shortened; its type if it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0][:REASON_LENGTH] if lines else type(error).__name__


def _download_checkpoint(source: str, revision: str | None) -> Path:
    """Download the settings and the weights that transformers would take, and no others."""
    directory = _download(source, revision, [*SETTINGS, WEIGHTS[0]])
    if _chosen_weights(directory) not in WEIGHTS[:2]:
        directory = _download(source, directory.name, [WEIGHTS[2]])
    chosen = _chosen_weights(directory)
    if chosen is not None and chosen.endswith(INDEX_SUFFIX):
        directory = _download(source, directory.name, _shard_names(directory / chosen, source))
    return directory


def _download(source: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except Exception as error:  # errors of the hub's client, of its HTTP library and of the system
        raise CheckpointError(
            f"'{source}' is not a local directory, and the download from the hub failed "
            f"({first_line(error)}); check the name and the network, or give a local directory"
        ) from error


def _weight_files(directory: Path, source: str) -> tuple[Path, ...]:
    chosen = _chosen_weights(directory)
    if chosen is None:
        raise CheckpointError(f"'{source}' has no weights: {WEIGHTS[0]} or {WEIGHTS[2]} is missing")
    if not chosen.endswith(INDEX_SUFFIX):
        return (directory / chosen,)
    paths = tuple(directory / name for name in _shard_names(directory / chosen, source))
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise CheckpointError(
            f"'{source}' has no weights: {absent[0][:REASON_LENGTH]} is missing, which {chosen} names"
        )
    return paths


def _chosen_weights(directory: Path) -> str | None:
    return next((name for name in WEIGHTS if (directory / name).is_file()), None)


def _shard_names(index: Path, source: str) -> list[str]:
    """Return the files that an index names, sorted."""
    mapping = _read_json(index, source).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise CheckpointError(f"'{source}': {index.name} has no weight_map; download it again")
    for name in mapping.values():
        if not _is_inside(name):
            raise CheckpointError(
                f"'{source}': {index.name} names the file {str(name)[:REASON_LENGTH]!r}; "
                "only files in the folder of the checkpoint are read"
            )
    return sorted(set(mapping.values()))


def _is_inside(name: object) -> bool:
    if not isinstance(name, str) or not name.endswith((".safetensors", ".bin")):
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _digest(weights: tuple[Path, ...]) -> str:
    digests = [file_sha256(path) for path in weights]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _read_json(path: Path, source: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"'{source}' has no readable {path.name}: {first_line(error)}") from error
    return content
