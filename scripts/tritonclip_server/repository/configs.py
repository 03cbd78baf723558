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
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from tritonclip_server.paths import MODEL_REPOSITORY
from tritonclip_server.repository.checkpoint import Checkpoint

PYTHON_MODELS = ("admission", "image_preprocess", "vision_encoder", "text_encoder", "similarity")
ENSEMBLES = ("clip_zero_shot", "clip_image_embedding", "clip_text_embedding", "clip_pixel_embedding")
MODELS = (*PYTHON_MODELS, *ENSEMBLES)
SIZES = ("instances", "max_batch_size", "priority_levels")
"""Settings of a Python model that `config.pbtxt` holds outside its parameters and a deployment may change."""
KINDS = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}
PLACEMENTS = ("kind", "gpus")
"""Settings of an encoder that `config.pbtxt` holds in its instance group: a key of `KINDS`; "0,1", say."""
ENCODERS = ("vision_encoder", "text_encoder")
CONFIG = "config.pbtxt"


def source_configuration(model: str) -> Any:
    """Return a model's ModelConfig from `model_repository/`."""
    return read_configuration((MODEL_REPOSITORY / model / CONFIG).read_text(encoding="utf-8"))


def python_configuration(model: str, changes: Mapping[str, str], versions: Sequence[int]) -> str:
    """Return the `config.pbtxt` of a Python model.

    Args:
        model: Name of the model.
        changes: Changed parameters, `SIZES` and `PLACEMENTS`. GPUs without a kind imply the kind gpu.
        versions: Versions to load.
    """
    config = source_configuration(model)
    for name, value in changes.items():
        if name == "instances":
            config.instance_group[0].count = int(value)
        elif name == "max_batch_size":
            config.max_batch_size = int(value)
        elif name == "kind":
            config.instance_group[0].kind = ModelInstanceGroup.Kind.Value(KINDS[value])
        elif name == "gpus":
            config.instance_group[0].gpus[:] = [int(number) for number in value.split(",")]
            if "kind" not in changes:
                config.instance_group[0].kind = ModelInstanceGroup.KIND_GPU
        elif name == "priority_levels":
            config.dynamic_batching.priority_levels = int(value)
            config.dynamic_batching.default_priority_level = int(value) // 2 + 1
        else:
            config.parameters[name].string_value = value
    return _config_text(config, versions)


def with_one_text_encoder(parameters: Mapping[str, Mapping[str, str]]) -> Mapping[str, Mapping[str, str]]:
    """Place `text_encoder` on the first of several GPUs that `vision_encoder` names, unless it is placed.

    Each of its instances has a separate label cache, and a second one would start cold.
    """
    gpus = parameters.get("vision_encoder", {}).get("gpus", "").split(",")
    text = parameters.get("text_encoder", {})
    if len(gpus) == 1 or any(name in text for name in PLACEMENTS):
        return parameters
    return {**parameters, "text_encoder": {**text, "gpus": gpus[0]}}


def with_versions(text: str, versions: Sequence[int]) -> str:
    """Return the `config.pbtxt` of a Python model with only the versions to load changed."""
    return _config_text(read_configuration(text), versions)


def ensemble_configuration(
    model: str, checkpoint: Checkpoint, version: int, identity: str, image_processor: str
) -> str:
    """Return the `config.pbtxt` of an ensemble for one version, which its parameters describe to clients.

    Args:
        model: Name of the ensemble.
        checkpoint: The weights and settings.
        version: Number of the version.
        identity: Its `version_identity`.
        image_processor: The parameter of `image_preprocess`.
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
        processor = {**checkpoint.processor, "image_processor": image_processor}
        facts["processor"] = json.dumps(processor, sort_keys=True, separators=(",", ":"))
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
