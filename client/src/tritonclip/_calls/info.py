"""What a server says of its models, from the forms of both protocols to the package's own. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritonclip._calls import wire
from tritonclip._images.preprocess import ProcessorSettings
from tritonclip._types import ModelInfo, ModelStatistics
from tritonclip.errors import ModelNotReadyError


@dataclass(frozen=True, kw_only=True)
class VisionInfo:
    """What a client needs to make pixel values and scores by itself.

    Attributes:
        settings: How the checkpoint wants its images.
        logit_scale: The multiplier from cosine to logit.
        version: Of the models that have this checkpoint; empty where the server does not say.
    """

    settings: ProcessorSettings
    logit_scale: float
    version: str


def decode_model_info(model: wire.Model, parameters: Mapping[str, str]) -> ModelInfo:
    """The parameters of a model's configuration to what they say of its weights.

    Raises:
        ModelNotReadyError: If one is missing.
    """
    try:
        return ModelInfo(
            name=model.name,
            checkpoint=parameters["checkpoint"],
            revision=parameters["revision"],
            sha256=parameters["sha256"],
            random_weights=parameters["random_weights"] == "true",
            logit_scale=float(parameters["logit_scale"]),
            version=parameters.get("version", ""),
        )
    except KeyError as error:
        raise ModelNotReadyError(
            f"its configuration has no parameter {error}; prepare the repository with prepare_weights.py",
            model=model.name,
        ) from error


def decode_vision(parameters: Mapping[str, str]) -> VisionInfo:
    """The parameters of `clip_pixel_embedding`'s configuration to what preprocessing here needs.

    Raises:
        ModelNotReadyError: If one is missing or malformed.
    """
    try:
        processor, logit_scale = parameters["processor"], float(parameters["logit_scale"])
        version = parameters.get("version", "")
    except KeyError as error:
        raise ModelNotReadyError(
            f"its configuration has no parameter {error}; prepare the repository anew with "
            "prepare_weights.py, or use preprocess='server'",
            model=wire.PIXEL_EMBEDDING.name,
        ) from error
    return VisionInfo(
        settings=ProcessorSettings.from_json(processor), logit_scale=logit_scale, version=version
    )


def decode_statistics(entries: Sequence[Mapping[str, Any]]) -> list[ModelStatistics]:
    """Triton's statistics of each model, in the field names of its HTTP form, as our own."""
    return sorted((_statistics(entry) for entry in entries), key=lambda one: one.name)


def _statistics(entry: Mapping[str, Any]) -> ModelStatistics:
    times = entry.get("inference_stats", {})

    def number(part: str, field: str) -> int:
        return int(times.get(part, {}).get(field, 0))  # over gRPC numbers come as text, and zeros not at all

    def mean_ms(*parts: str) -> float:
        return sum(number(part, "ns") for part in parts) / 1e6 / max(number("success", "count"), 1)

    return ModelStatistics(
        name=entry["name"],
        version=str(entry.get("version", "")),
        requests=number("success", "count"),
        failures=number("fail", "count"),
        rows=int(entry.get("inference_count", 0)),
        executions=int(entry.get("execution_count", 0)),
        mean_ms=mean_ms("success"),
        queue_ms=mean_ms("queue"),
        compute_ms=mean_ms("compute_input", "compute_infer", "compute_output"),
    )
