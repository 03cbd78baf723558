"""Make the `config.pbtxt` of each model from the source, changed settings, a checkpoint and versions.

An ensemble serves one version, and each of its steps is pinned to that version of its model. So one
checkpoint answers a request, and a single write and load switch to another. The Python models may have
several versions loaded at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tritonclip_server.paths import MODEL_REPOSITORY
from tritonclip_server.repository.checkpoint import Checkpoint

PYTHON_MODELS = ("admission", "image_preprocess", "vision_encoder", "text_encoder", "similarity")
ENSEMBLES = ("clip_zero_shot", "clip_image_embedding", "clip_text_embedding", "clip_pixel_embedding")
MODELS = (*PYTHON_MODELS, *ENSEMBLES)
SIZES = ("instances", "max_batch_size", "priority_levels")
"""Settings of a Python model that `config.pbtxt` holds outside its parameters and a deployment may change."""
CONFIG = "config.pbtxt"


def source_configuration(model: str) -> Any:
    """Return a model's ModelConfig from `model_repository/`."""
    return read_configuration((MODEL_REPOSITORY / model / CONFIG).read_text(encoding="utf-8"))


def python_configuration(model: str, changes: Mapping[str, str], versions: Sequence[int]) -> str:
    """Return the `config.pbtxt` of a Python model.

    Args:
        model: Name of the model.
        changes: Changed parameters and `SIZES`.
        versions: Versions to load.
    """
    config = source_configuration(model)
    for name, value in changes.items():
        if name == "instances":
            config.instance_group[0].count = int(value)
        elif name == "max_batch_size":
            config.max_batch_size = int(value)
        elif name == "priority_levels":
            config.dynamic_batching.priority_levels = int(value)
            config.dynamic_batching.default_priority_level = int(value) // 2 + 1
        else:
            config.parameters[name].string_value = value
    return _config_text(config, versions)


def with_versions(text: str, versions: Sequence[int]) -> str:
    """Return the `config.pbtxt` of a Python model with only the versions to load changed."""
    return _config_text(read_configuration(text), versions)


def ensemble_configuration(model: str, checkpoint: Checkpoint, version: int, identity: str) -> str:
    """Return the `config.pbtxt` of an ensemble for one version, which its parameters describe to clients.

    Args:
        model: Name of the ensemble.
        checkpoint: The weights and settings.
        version: Number of the version.
        identity: Its `version_identity`.
    """
    config = source_configuration(model)
    facts = {
        "identity": identity,
        "checkpoint": checkpoint.source,
        "revision": checkpoint.revision,
        "sha256": checkpoint.sha256,
        "random_weights": str(checkpoint.random).lower(),
        "logit_scale": f"{checkpoint.logit_scale:.9g}",
        "version": str(version),
    }
    if model == "clip_pixel_embedding":  # for clients that preprocess images
        facts["processor"] = json.dumps(checkpoint.processor, sort_keys=True, separators=(",", ":"))
    for name, value in facts.items():
        config.parameters[name].string_value = value
    for step in config.ensemble_scheduling.step:
        step.model_version = version
    return _config_text(config, [version])


def read_configuration(text: str) -> Any:
    """Return the ModelConfig of a `config.pbtxt`."""
    return text_format.Parse(text, ModelConfig())


def read_versions(text: str) -> list[int]:
    """Return the versions that a `config.pbtxt` loads."""
    return list(read_configuration(text).version_policy.specific.versions)


def _config_text(config: Any, versions: Sequence[int]) -> str:
    config.version_policy.specific.versions[:] = versions
    return str(text_format.MessageToString(config, as_utf8=True))
