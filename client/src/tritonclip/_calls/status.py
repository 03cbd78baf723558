"""The server's state: health, models and statistics, as flows and as decoded values."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from tritonclip._calls import codec, wire
from tritonclip._calls.steps import Flow, infer
from tritonclip._types import Health, Inference, ModelInfo, ModelStatistics, Prediction
from tritonclip.errors import (
    DeadlineExceededError,
    InferenceError,
    ModelNotReadyError,
    ServerUnavailableError,
    TritonClipError,
    rejection_reason,
)

PROBE_IMAGE = base64.b64decode(  # PNG, 2 x 2 pixels, red
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mP8z8DAwMDAxMDAwMDAAAANHQEDaB7T3gAAAABJRU5ErkJggg=="
)
PROBE_LABELS = ("red", "blue")
SUM_TOLERANCE = 1e-2  # of the scores' sum; bfloat16 rounds at 4e-3


def health(*, deep: bool) -> Flow[Health]:
    """Ask for the state of the server and of each public model; if `deep`, probe it with an inference."""
    live: bool = yield wire.Question(wire.Topic.SERVER_LIVE)
    ready: bool = yield wire.Question(wire.Topic.SERVER_READY)
    models: dict[str, bool] = {}
    for model in wire.PUBLIC_MODELS:
        models[model.name] = yield wire.Question(wire.Topic.MODEL_READY, model)
    inference, reason = (yield from probe()) if deep else (None, None)
    if not live and reason is None:
        reason = yield from _reason_of_no_answer()
    return Health(live=live, ready=ready, models=models, inference=inference, reason=reason)


def _reason_of_no_answer() -> Flow[str | None]:
    """Ask something else, and return the text of the error: over HTTP another server may have answered."""
    try:
        yield wire.Question(wire.Topic.STATISTICS)
    except TritonClipError as error:
        return error.message
    return None


def models() -> Flow[list[ModelInfo]]:
    """Ask for the weights of each public model."""
    infos = []
    for model in wire.PUBLIC_MODELS:
        parameters = yield wire.Question(wire.Topic.MODEL_PARAMETERS, model)
        infos.append(decode_model_info(model, parameters))
    return infos


def statistics() -> Flow[list[ModelStatistics]]:
    """Ask for the statistics of each model."""
    return decode_statistics((yield wire.Question(wire.Topic.STATISTICS)))


def probe() -> Flow[tuple[Inference, str | None]]:
    """Classify a tiny image; return the outcome, and the reason if there was no answer.

    Triton's own health covers only its process and loaded models. It stays green while a model's process is
    dead or stuck and every request fails or waits.
    """
    ranking = codec.Ranking.check(list(PROBE_LABELS), hypothesis_template="{}", top_k=None, threshold=None)
    try:
        ((*predictions,),) = yield from infer(codec.classify_call([PROBE_IMAGE], ranking))
        check_probe_answer(predictions)
    except TritonClipError as error:
        return probe_outcome(error), error.message
    return "ok", None


def check_probe_answer(predictions: list[Prediction]) -> None:
    """Raise InferenceError unless the scores sum to 1, which the codec does not check."""
    total = sum(found["score"] for found in predictions)
    if abs(total - 1) > SUM_TOLERANCE:
        raise InferenceError(f"the scores of an image sum to {total:g}, not to 1")


def probe_outcome(error: TritonClipError) -> Inference:
    """Return the outcome for an error of the probe."""
    rejected = isinstance(error, ServerUnavailableError) and rejection_reason(error.message)
    if rejected in ("overload", "deadline"):  # a server that rejects work is alive
        return "overloaded"
    return "timeout" if isinstance(error, DeadlineExceededError) else "failed"


def decode_model_info(model: wire.Model, parameters: Mapping[str, str]) -> ModelInfo:
    """Decode the description of a model's weights from the parameters of its configuration.

    Raises:
        ModelNotReadyError: A parameter is missing.
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
            identity=parameters.get("identity", ""),
        )
    except KeyError as error:
        raise ModelNotReadyError(
            f"its configuration has no parameter {error}; prepare the repository with "
            "`tritonclip-server prepare`",
            model=model.name,
        ) from error


def decode_statistics(entries: Sequence[Mapping[str, Any]]) -> list[ModelStatistics]:
    """Decode Triton's statistics of each model, given with the field names of its HTTP API."""
    return sorted((_model_statistics(entry) for entry in entries), key=lambda one: one.name)


def _model_statistics(entry: Mapping[str, Any]) -> ModelStatistics:
    times = entry.get("inference_stats", {})

    def number(part: str, field: str) -> int:
        return int(times.get(part, {}).get(field, 0))  # over gRPC numbers are text, and zeros are omitted

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
