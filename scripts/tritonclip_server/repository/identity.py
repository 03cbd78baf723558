"""Digests that tell two checkpoints, and two versions, apart.

The key of a checkpoint covers all files that a version is made from. The identity of a version covers all of
its parts that can change an answer. It depends on neither paths, names, version numbers nor the machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tritonclip_server.repository.checkpoint_files import SETTINGS, CheckpointFiles, file_sha256

ANSWERING_MODELS = ("image_preprocess", "vision_encoder", "text_encoder", "similarity")
ANSWER_PARAMETERS: dict[str, tuple[str, ...]] = {
    "image_preprocess": ("image_processor", "jpeg_draft"),
    "vision_encoder": ("precision",),
    "text_encoder": ("precision",),
}
"""Parameters of `config.pbtxt` that change answers; the others set limits, sizes and places of work."""
PRELOADED_LABELS = "preload_labels.txt"
WITHOUT_INFLUENCE = {
    PRELOADED_LABELS,
    *(f"clip_common/{name}.py" for name in ("metrics", "pace", "responder", "times", "version")),
}
"""Files of a version that change no answer: they measure, reject, report and check."""


def checkpoint_key(files: CheckpointFiles) -> str:
    """Return a digest of a checkpoint's weights and of all files that may hold its settings."""
    paths = {path for pattern in SETTINGS for path in files.directory.glob(pattern) if path.is_file()}
    return _digest([files.sha256, *(f"{path.name} {file_sha256(path)}" for path in sorted(paths))])


def answer_parameters(model: str, config: Any) -> dict[str, str]:
    """Return those parameters of a model's `ModelConfig` that change answers."""
    names = ANSWER_PARAMETERS.get(model, ())
    return {name: config.parameters[name].string_value for name in names if name in config.parameters}


def version_identity(
    files: Mapping[str, Mapping[str, str]], parameters: Mapping[str, Mapping[str, str]]
) -> str:
    """Return the digest of everything that can change an answer of a version.

    Args:
        files: SHA-256 of each file of the version, by model and by path in the version directory.
        parameters: The `answer_parameters` of each model.
    """
    lines = [
        f"{model}/{name} {digest}"
        for model in ANSWERING_MODELS
        for name, digest in sorted(files[model].items())
        if name not in WITHOUT_INFLUENCE
    ]
    chosen = {model: parameters[model] for model in ANSWERING_MODELS}
    return _digest([*lines, json.dumps(chosen, sort_keys=True)])


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
