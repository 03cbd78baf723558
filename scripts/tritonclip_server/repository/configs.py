"""The `config.pbtxt` of each model: the source's, with changed settings, a checkpoint's facts, and versions.

An ensemble serves one version, and every step of it is pinned to that version of its model: so a request is
answered by one checkpoint, and one write and one load switch to another. The Python models may have several
versions loaded at once.
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
"""What `config.pbtxt` says of a Python model outside its parameters and a deployment may want otherwise."""
CONFIG = "config.pbtxt"


def source_configuration(model: str) -> Any:
    """A model's ModelConfig as it stands in `model_repository/`."""
    return text_format.Parse((MODEL_REPOSITORY / model / CONFIG).read_text(encoding="utf-8"), ModelConfig())


def python_configuration(model: str, changes: Mapping[str, str], versions: Sequence[int]) -> str:
    """The `config.pbtxt` of a Python model.

    Args:
        model: Its name.
        changes: Parameters and `SIZES` to change.
        versions: Which to load.
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
    return _text_of_versions(config, versions)


def with_versions(text: str, versions: Sequence[int]) -> str:
    """The `config.pbtxt` of a Python model with other versions to load, and nothing else changed."""
    return _text_of_versions(text_format.Parse(text, ModelConfig()), versions)


def ensemble_configuration(model: str, checkpoint: Checkpoint, version: int) -> str:
    """The `config.pbtxt` of an ensemble that serves a version, with the facts of its checkpoint."""
    config = source_configuration(model)
    facts = {
        "checkpoint": checkpoint.source,
        "revision": checkpoint.revision,
        "sha256": checkpoint.sha256,
        "random_weights": str(checkpoint.random).lower(),
        "logit_scale": f"{checkpoint.logit_scale:.9g}",
        "version": str(version),
    }
    if model == "clip_pixel_embedding":  # for clients that send it pixels of their own
        facts["processor"] = json.dumps(checkpoint.processor, sort_keys=True, separators=(",", ":"))
    for name, value in facts.items():
        config.parameters[name].string_value = value
    for step in config.ensemble_scheduling.step:
        step.model_version = version
    return _text_of_versions(config, [version])


def read_versions(text: str) -> list[int]:
    """The versions that a `config.pbtxt` has loaded."""
    return list(text_format.Parse(text, ModelConfig()).version_policy.specific.versions)


def _text_of_versions(config: Any, versions: Sequence[int]) -> str:
    config.version_policy.specific.versions[:] = versions
    return str(text_format.MessageToString(config, as_utf8=True))
