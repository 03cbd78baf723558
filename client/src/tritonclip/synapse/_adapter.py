"""The adapter, which converts a canonical message to model input and model output to a canonical message.

It uses no network, files or state. The caller runs the model between the two methods, with `SynapseRunner`,
transformers' zero-shot-image-classification pipeline or a `ZeroShotClassifier`.

Source of the contract: `AdapterBase` and the rules of `AdapterValidator` in synapse-adapter-sdk.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

from synapse_sdk import AdapterBase, CanonicalIR, Classification, Domain, Payload, TaskType

from tritonclip._calls.checks import DEFAULT_LABELS, label_warning

SCORE_TOLERANCE = 1e-3  # a score may exceed the range 0 to 1 by this much without a warning


class ClipVitBasePatch32Adapter(AdapterBase):
    """Adapter for zero-shot image classification with CLIP.

    Args:
        model_id: Model name in the provenance, if the server has a checkpoint other than ViT-B/32.

    Attributes:
        MODEL_ID: Registered name of the model.
        ADAPTER_VERSION: Version of this adapter.
        TASK_TYPES: Registered task types.
        DOMAINS: Registered domains.
    """

    MODEL_ID: str = "openai/clip-vit-base-patch32"
    ADAPTER_VERSION: str = "1.0.0"
    TASK_TYPES = (TaskType.classify,)
    DOMAINS = (Domain.multimodal, Domain.vision)

    def __init__(self, model_id: str | None = None) -> None:
        if model_id is not None:
            self.MODEL_ID = model_id

    def ingress(self, ir: CanonicalIR) -> dict[str, Any]:
        """Convert a message to the keyword arguments of a zero-shot classifier.

        Args:
            ir: Any valid message.

        Returns:
            `image`: the bytes of a binary payload of type `image/*`, otherwise the content, a path or URL. It
            is empty (`b""` or `""`) if the message has no image. `candidate_labels`: the labels of the
            header, or `DEFAULT_LABELS` if it has none.
        """
        return {
            "image": _image(ir.payload),
            "candidate_labels": list(ir.task_header.candidate_labels or DEFAULT_LABELS),
        }

    def egress(self, model_output: Any, original_ir: CanonicalIR, latency_ms: int) -> CanonicalIR:
        """Add a classifier's output to a copy of the message.

        Args:
            model_output: `[{"score": float, "label": str}, ...]`. Any other value gives no labels. Entries
                that are not predictions are skipped.
            original_ir: The message that was classified; it is not modified.
            latency_ms: Duration of the model call, in milliseconds.

        Returns:
            The message with all labels in `payload.labels`, highest score first, and a new provenance entry.
            The entry's confidence is the highest score, and its warnings list problems in the output.
        """
        warnings: list[str] = []
        given = original_ir.task_header.candidate_labels or None
        if warning := label_warning(given, given or DEFAULT_LABELS):
            warnings.append(warning)
        labels = _classifications(model_output, warnings)
        answer = original_ir.model_copy(deep=True)  # clone() would serialise the whole message to JSON
        answer.payload.labels = labels
        entry = self.build_provenance(
            confidence=labels[0].score if labels else 0.0, latency_ms=latency_ms, warnings=warnings or None
        )
        answer.provenance.append(entry)
        return answer


def _image(payload: Payload) -> str | bytes:
    kind = (payload.mime_type or "").strip().lower()
    if payload.binary_b64 is None or not kind.startswith("image/"):
        return payload.content or ""
    try:
        return base64.b64decode("".join(payload.binary_b64.split()), validate=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        return b""


def _classifications(output: object, warnings: list[str]) -> list[Classification]:
    """Return the predictions in an output, highest score first; append its problems to `warnings`."""
    if not isinstance(output, list):
        warnings.append(f"expected a list of predictions from the model, got {type(output).__name__}")
        return []
    found = [one for one in (_classification(entry, warnings) for entry in output) if one is not None]
    if len(found) < len(output):
        warnings.append(f"{len(output) - len(found)} of {len(output)} entries are not predictions")
    warnings[:] = dict.fromkeys(warnings)  # report each problem once
    return sorted(found, key=lambda one: one.score, reverse=True)


def _classification(entry: object, warnings: list[str]) -> Classification | None:
    try:
        label, score = entry["label"], float(entry["score"])  # type: ignore[index]
    except (TypeError, KeyError, IndexError, ValueError, OverflowError):
        return None
    if not isinstance(label, str) or not math.isfinite(score):
        return None
    clamped = min(max(score, 0.0), 1.0)
    if abs(clamped - score) > SCORE_TOLERANCE:
        warnings.append("a score is outside the range 0 to 1")
    clean = label.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    if clean != label:
        warnings.append("a label contains characters that a message cannot represent")
    return Classification(label=clean, score=clamped)
