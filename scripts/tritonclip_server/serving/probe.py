"""A true inference that shows if a server answers: it classifies a tiny image with two labels.

Triton's own health reports its process and its loaded models only. It stays green while the process of a
model is dead or stuck and every request fails or waits.
"""

from __future__ import annotations

import base64
import http.client
import re
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tritonclip_server.repository.configs import ENSEMBLES

Outcome = Literal["ok", "overloaded", "timeout", "failed"]

MODEL = "clip_zero_shot"
IMAGE = base64.b64decode(  # PNG, 2 x 2 pixels, red
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mP8z8DAwMDAxMDAwMDAAAANHQEDaB7T3gAAAABJRU5ErkJggg=="
)
LABELS = (b"red", b"blue")
SUM_TOLERANCE = 1e-2
"""Largest distance of the sum of the scores from 1; bfloat16 rounds at 4e-3."""
CALL_ERRORS = (InferenceServerException, OSError, http.client.HTTPException, ValueError)
"""Errors of a call: statuses of Triton or gRPC, errors of the socket, and answers that cannot be decoded."""
_PREFIX = re.compile(r"(?:\[request id: [^\]]*\] |in ensemble '[^']*', )+")
_OVERLOADED = re.compile(r"overloaded: |deadline ")


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Outcome of one probe.

    Attributes:
        outcome: "ok", "overloaded" (the server rejects work for now), "timeout" (it is live, but did not
            answer the inference in time) or "failed".
        reason: Cause of any other outcome than "ok".
    """

    outcome: Outcome
    reason: str = ""

    @property
    def is_busy(self) -> bool:
        """True if the server is live, but had no time for the probe."""
        return self.outcome in ("overloaded", "timeout")


def probe(url: str, timeout_s: float) -> ProbeResult:
    """Check that a server is live and ready, and classify an image.

    Args:
        url: `host:port` of gRPC, or `http://host:port`.
        timeout_s: Limit for all calls together; over HTTP, for each wait on the connection.
    """
    server = _Server(url, timeout_s)
    try:
        if (reason := _not_ready(server)) is not None:
            return ProbeResult(outcome="failed", reason=reason)
    except CALL_ERRORS as error:
        return ProbeResult(outcome="failed", reason=_message(error))
    else:
        return _infer(server)
    finally:
        server.client.close()


def is_overload(message: str) -> bool:
    """Return whether the text of a failed request says that the server rejected it for its load.

    The model `admission` and the steps after it start their rejections in this way. A server that drains
    rejects with another text, and is not overloaded.
    """
    return _OVERLOADED.match(message) is not None


class _Server:
    """The calls of a probe, over gRPC or HTTP.

    Args:
        url: See `probe`.
        timeout_s: See `probe`.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._deadline_s = time.monotonic() + timeout_s
        self._over_http = url.startswith("http://")
        self.triton: Any = tritonclient.http if self._over_http else tritonclient.grpc
        limits = {"connection_timeout": timeout_s, "network_timeout": timeout_s} if self._over_http else {}
        self.client = self.triton.InferenceServerClient(url.removeprefix("http://"), **limits)

    @property
    def left_s(self) -> float:
        """Seconds until the deadline of the probe."""
        return max(self._deadline_s - time.monotonic(), 0.001)

    def options(self) -> dict[str, Any]:
        """Return the options of the next call: its time limit, which over HTTP the client has already."""
        return {} if self._over_http else {"client_timeout": self.left_s}


def _not_ready(server: _Server) -> str | None:
    """Return the part of a server that is not ready, or None."""
    if not server.client.is_server_live(**server.options()):
        return "the server is not live"
    if not server.client.is_server_ready(**server.options()):
        return "the server is not ready"
    for model in ENSEMBLES:
        if not server.client.is_model_ready(model, **server.options()):
            return f"the model {model} is not ready"
    return None


def _infer(server: _Server) -> ProbeResult:
    tensors = []
    for name, content in (("image", [IMAGE]), ("labels", LABELS)):
        tensors.append(server.triton.InferInput(name, [1, len(content)], "BYTES"))
        tensors[-1].set_data_from_numpy(np.array([content], object))
    wanted = [server.triton.InferRequestedOutput("scores")]
    parameters = {"deadline_ms": max(int(server.left_s * 1000), 1)}
    try:
        answer = server.client.infer(
            MODEL, tensors, outputs=wanted, parameters=parameters, **server.options()
        )
    except CALL_ERRORS as error:
        return _failed_inference(error)
    scores = answer.as_numpy("scores")
    if scores is None or scores.size != len(LABELS):
        return ProbeResult(outcome="failed", reason="the answer does not have one score per label")
    total = float(scores.sum())
    if abs(total - 1) <= SUM_TOLERANCE:
        return ProbeResult(outcome="ok")
    return ProbeResult(outcome="failed", reason=f"the scores of an image sum to {total:g}, not to 1")


def _failed_inference(error: Exception) -> ProbeResult:
    message = _message(error)
    if _is_timeout(error):
        return ProbeResult(outcome="timeout", reason=message)
    return ProbeResult(outcome="overloaded" if is_overload(message) else "failed", reason=message)


def _is_timeout(error: Exception) -> bool:
    status = error.status() if isinstance(error, InferenceServerException) else None
    return isinstance(error, TimeoutError) or status == "StatusCode.DEADLINE_EXCEEDED"


def _message(error: Exception) -> str:
    """Return an error's text without Triton's prefixes."""
    if _is_timeout(error):
        return "no answer within the time limit of the probe"
    if isinstance(error, InferenceServerException):
        return _PREFIX.sub("", str(error.message() or "").strip(), count=1)
    kind = "cannot connect" if isinstance(error, OSError) else "invalid answer"
    return f"{kind}: {str(error) or type(error).__name__}"
