"""The complete stage: ingress, a client's call to a Triton server, egress.

Source of the error codes and of their `retryable` flags: s6-errors.md in synapse-ir/spec.
"""

from __future__ import annotations

import time
from typing import Any

from synapse_sdk import (
    CanonicalIR,
    FailedStage,
    FailurePolicy,
    PartialCompletionResponse,
    TaskHeader,
)

from tritonclip._calls.request import RequestOptions
from tritonclip._types import Prediction
from tritonclip.client import Client
from tritonclip.errors import (
    AccessDeniedError,
    DeadlineExceededError,
    InferenceError,
    InvalidInputError,
    ModelNotReadyError,
    ServerUnavailableError,
    TritonClipError,
)
from tritonclip.synapse._adapter import ClipVitBasePatch32Adapter

_CODES: dict[type[TritonClipError], tuple[str, bool]] = {
    InvalidInputError: ("ADAPTER_VALIDATION_ERROR", False),
    DeadlineExceededError: ("ADAPTER_TIMEOUT", True),
    ServerUnavailableError: ("MODEL_UNAVAILABLE", True),
    ModelNotReadyError: ("MODEL_NOT_FOUND", False),
    AccessDeniedError: ("FORBIDDEN", False),
    InferenceError: ("INTERNAL_ERROR", True),
}
"""Error code and `retryable` flag by type of error. MODEL_UNAVAILABLE is an addition to the specification."""

MAX_ERROR_CHARS = 500  # an error may quote the content of the message, which can be long
NO_IMAGE = (
    "the payload contains no image; put a path or URL into content, or a base64-encoded file into binary_b64 "
    "with a mime_type of image/..."
)
CONTENT_REJECTED = (
    "paths and URLs are not accepted here; put the base64-encoded file into binary_b64 with a mime_type of "
    "image/..."
)


class StageError(RuntimeError):
    """Failure of the stage, with the client's error as its cause.

    Attributes:
        code: `ADAPTER_VALIDATION_ERROR` (fix the message), `ADAPTER_TIMEOUT`, `MODEL_UNAVAILABLE`,
            `INTERNAL_ERROR` (retry, or use another model), `MODEL_NOT_FOUND`, `FORBIDDEN` (fix the
            deployment).
        retryable: True if a retry may succeed.
        envelope: Code, message and `retryable` in the form of the SDK's errors.
    """

    def __init__(self, error: TritonClipError) -> None:
        super().__init__(_text(error))
        self.code, self.retryable = _code(error)
        self.envelope: dict[str, Any] = {
            "error": self.code,
            "message": _text(error),
            "retryable": self.retryable,
        }


class SynapseRunner:
    """Runner that classifies the image of a message. It is thread-safe.

    Args:
        client: Client of the Triton server.
        adapter: The adapter; the default names ViT-B/32 as the model. For another checkpoint pass
            `ClipVitBasePatch32Adapter(model_id)`.
        binary_only: Reject paths and URLs, which this process would open with its own permissions. Set it
            for messages from untrusted senders.
    """

    def __init__(
        self,
        client: Client,
        adapter: ClipVitBasePatch32Adapter | None = None,
        *,
        binary_only: bool = False,
    ) -> None:
        self.adapter = adapter or ClipVitBasePatch32Adapter()
        self._client, self._binary_only = client, binary_only

    def run(self, ir: CanonicalIR) -> CanonicalIR | PartialCompletionResponse:
        """Classify a message within its `latency_budget_ms` and with its `priority`.

        Returns:
            The message with its labels. If the call fails and the message's failure policy is `partial`, the
            results of the previous stages.

        Raises:
            StageError: The call failed, and the failure policy is `abort` or `fallback`.
        """
        try:
            model_input = self.adapter.ingress(ir)
            started = time.perf_counter()
            output = self._classify(**model_input, **request_options(ir.task_header))
            took_ms = 1000 * (time.perf_counter() - started)
        except TritonClipError as error:
            if ir.task_header.failure_policy is FailurePolicy.partial:
                return self._partial(ir, error)
            raise StageError(error) from error
        return self.adapter.egress(output, ir, latency_ms=max(1, round(took_ms)))

    def _classify(self, image: str | bytes, candidate_labels: list[str], **options: Any) -> list[Prediction]:
        """Call the client with the arguments of transformers' pipeline."""
        if not image:
            raise InvalidInputError(NO_IMAGE)
        if self._binary_only and isinstance(image, str):
            raise InvalidInputError(CONTENT_REJECTED)
        return self._client.classify(image, candidate_labels, **options)

    def _partial(self, ir: CanonicalIR, error: TritonClipError) -> PartialCompletionResponse:
        failed = FailedStage(
            model_id=self.adapter.MODEL_ID,
            error=_code(error)[0],
            detail=_text(error),
            stage_index=len(ir.provenance),
        )
        return PartialCompletionResponse(
            completed_stages=[entry.model_id for entry in ir.provenance],
            failed_stages=[failed],
            payload=ir.payload.model_copy(deep=True),
            provenance=list(ir.provenance),
        )


def request_options(header: TaskHeader) -> RequestOptions:
    """Convert a message's header to the options of a client's call.

    - `latency_budget_ms` becomes the deadline. 0 means no budget in the SDK, so the client's default applies.
    - `priority` is passed on unchanged: 1 is the highest in Triton and in the SDK's fixtures.
    - A sampled `traceparent` is sent to the server.
    """
    options: RequestOptions = {"priority": header.priority}
    if header.latency_budget_ms:
        options["timeout_s"] = header.latency_budget_ms / 1000
    trace = header.trace_context
    if trace is not None and int(trace.traceparent[-2:], 16) & 1:
        options["headers"] = {"traceparent": trace.traceparent}
    return options


def _code(error: TritonClipError) -> tuple[str, bool]:
    found = next((code for kind, code in _CODES.items() if isinstance(error, kind)), None)
    return found or ("INTERNAL_ERROR", True)


def _text(error: TritonClipError) -> str:
    text = str(error)
    return text if len(text) <= MAX_ERROR_CHARS else text[:MAX_ERROR_CHARS] + " [cut]"
