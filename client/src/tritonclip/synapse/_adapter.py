"""The adapter: a canonical message to the model's input, and the model's output to a canonical message.

It only transforms: no network, no files, no state. What lies between its two methods is the caller's, such as
`SynapseRunner`, transformers' zero-shot-image-classification pipeline, or a `ZeroShotClassifier`.

Source of the contract: `AdapterBase` and the rules of `AdapterValidator` in synapse-adapter-sdk.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

from synapse_sdk import AdapterBase, CanonicalIR, Classification, Domain, Payload, TaskType

from tritonclip._calls.checks import DEFAULT_LABELS

ROUNDING = 1e-3  # by so much a score may lie outside 0 to 1 and still be taken for one


class ClipVitBasePatch32Adapter(AdapterBase):
    """Zero-shot image classification by CLIP.

    Args:
        model_id: What the provenance names, where another checkpoint is served than ViT-B/32.

    Attributes:
        MODEL_ID: As it is registered.
        ADAPTER_VERSION: Of this adapter.
        TASK_TYPES: What it is registered for.
        DOMAINS: In which domains.
    """

    MODEL_ID: str = "openai/clip-vit-base-patch32"
    ADAPTER_VERSION: str = "1.0.0"
    TASK_TYPES = (TaskType.classify,)
    DOMAINS = (Domain.multimodal, Domain.vision)

    def __init__(self, model_id: str | None = None) -> None:
        if model_id is not None:
            self.MODEL_ID = model_id

    def ingress(self, ir: CanonicalIR) -> dict[str, Any]:
        """Turn a message into the keyword arguments of a zero-shot classifier.

        Args:
            ir: Any valid message.

        Returns:
            `image`: for a binary payload of type `image/*` the file's bytes, else the content, a path or a
            URL; empty (`b""`, `""`) where there is none. `candidate_labels`: those of the header, else
            `DEFAULT_LABELS`.
        """
        return {
            "image": _image(ir.payload),
            "candidate_labels": list(ir.task_header.candidate_labels or DEFAULT_LABELS),
        }

    def egress(self, model_output: Any, original_ir: CanonicalIR, latency_ms: int) -> CanonicalIR:
        """Put a classifier's output into a copy of the message.

        Args:
            model_output: `[{"score": float, "label": str}, ...]`. Anything else gives no labels; entries
                that are no predictions are left out.
            original_ir: The message that was classified; it stays as it is.
            latency_ms: How long the model took, in milliseconds.

        Returns:
            The message with all labels, highest score first, in `payload.labels`, and one provenance entry
            more, whose confidence is the highest score. Its warnings tell what was amiss.
        """
        warnings: list[str] = []
        if not original_ir.task_header.candidate_labels:
            warnings.append("no candidate labels were given: the default ones were ranked")
        labels = _classifications(model_output, warnings)
        answer = original_ir.model_copy(deep=True)  # clone() would write the whole message as JSON once more
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
    """The predictions of an output, highest score first; adds to `warnings` what was amiss."""
    if not isinstance(output, list):
        warnings.append(f"the model gave no list of predictions but {type(output).__name__}")
        return []
    found = [one for one in (_classification(entry, warnings) for entry in output) if one is not None]
    if len(found) < len(output):
        warnings.append(f"{len(output) - len(found)} of {len(output)} entries were no predictions")
    warnings[:] = dict.fromkeys(warnings)  # one of each
    return sorted(found, key=lambda one: one.score, reverse=True)


def _classification(entry: object, warnings: list[str]) -> Classification | None:
    try:
        label, score = entry["label"], float(entry["score"])  # type: ignore[index]
    except (TypeError, KeyError, IndexError, ValueError, OverflowError):
        return None
    if not isinstance(label, str) or not math.isfinite(score):
        return None
    kept = min(max(score, 0.0), 1.0)
    if abs(kept - score) > ROUNDING:
        warnings.append("a score lay outside 0 to 1")
    clean = label.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    if clean != label:
        warnings.append("a label held characters that a message cannot")
    return Classification(label=clean, score=kept)
