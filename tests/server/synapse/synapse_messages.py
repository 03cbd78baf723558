"""SYNAPSE messages for the tests."""

from __future__ import annotations

import base64
import uuid

from synapse_sdk import CanonicalIR, Domain, Payload, TaskHeader, TaskType

LABELS = ["a red circle", "a blue square", "the digit 7"]


def message(payload: Payload, **header: object) -> CanonicalIR:
    """Return a classification request with this payload; `header` overrides fields of its header."""
    settings = {"priority": 2, "latency_budget_ms": 60_000, "candidate_labels": LABELS} | header
    return CanonicalIR(
        ir_version="1.0.0",
        message_id=str(uuid.uuid4()),
        task_header=TaskHeader(task_type=TaskType.classify, domain=Domain.vision, **settings),
        payload=payload,
    )


def by_content(content: str, **header: object) -> CanonicalIR:
    return message(Payload(modality="text", content=content), **header)


def by_bytes(content: bytes, mime_type: str = "image/jpeg", **header: object) -> CanonicalIR:
    encoded = base64.b64encode(content).decode("ascii")
    return message(Payload(modality="binary", binary_b64=encoded, mime_type=mime_type), **header)
