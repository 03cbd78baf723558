"""The stage around the adapter: ingress, the call of a Triton server by a client, egress.

Source of the codes and of which of them are worth another try: s6-errors.md in synapse-ir/spec.
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
"""The code of an error, and whether another try may help. MODEL_UNAVAILABLE is of our own making."""

MAX_TEXT_CHARS = 500  # of an error: it may quote the content, which may be any text
NO_IMAGE = (
    "the payload holds no image; put a path or a URL into content, or a file as base64 with a mime_type "
    "of image/... into binary_b64"
)
CONTENT_REFUSED = (
    "paths and URLs are not opened here; put the file as base64 with a mime_type of image/... into binary_b64"
)


class StageError(RuntimeError):
    """The stage failed. Look at `envelope`; the client's error is the cause.

    Attributes:
        code: `ADAPTER_VALIDATION_ERROR` (fix the message), `ADAPTER_TIMEOUT`, `MODEL_UNAVAILABLE`,
            `INTERNAL_ERROR` (try again, or another model), `MODEL_NOT_FOUND`, `FORBIDDEN` (fix the
            deployment).
        retryable: Whether another try may help.
        envelope: Both with the text, in the form of the SDK's own errors.
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
    """Classifies the image of a message; safe for threads, as its client is.

    Args:
        client: Of the server.
        adapter: By default that of ViT-B/32; name what is served: `ClipVitBasePatch32Adapter(model_id)`.
        binary_only: Refuse paths and URLs, which this process would open with its own rights. For messages
            of strangers.
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
        """Classify within the message's `latency_budget_ms`, at its `priority`.

        Returns:
            The message with its labels. Where the server does not answer and the message's failure policy is
            `partial`: what the stages before have given.

        Raises:
            StageError: The same under the policies `abort` and `fallback`.
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
        """The call in the form of transformers' pipeline."""
        if not image:
            raise InvalidInputError(NO_IMAGE)
        if self._binary_only and isinstance(image, str):
            raise InvalidInputError(CONTENT_REFUSED)
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
    """A message's header as the options of a client's call.

    `latency_budget_ms` becomes the deadline; 0 sets none, as the SDK wants it, and the client's own holds.
    `priority` is passed on as it is: 1 is the highest here and, by the SDK's fixtures, there. A sampled
    `traceparent` is told to the server.
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
    return text if len(text) <= MAX_TEXT_CHARS else text[:MAX_TEXT_CHARS] + " [cut]"
