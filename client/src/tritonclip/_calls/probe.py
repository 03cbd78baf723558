"""A true inference that tells whether a server answers: a tiny image is ranked against two labels.

Triton's own health tells of its process and of loaded models only. It stays green while a model's process is
dead or stuck, and every request fails or waits.
"""

from __future__ import annotations

import base64
import re

from tritonclip._calls import codec
from tritonclip._calls.steps import Flow, infer
from tritonclip._types import Inference, Prediction
from tritonclip.errors import (
    DeadlineExceededError,
    InferenceError,
    ServerUnavailableError,
    TritonClipError,
)

IMAGE = base64.b64decode(  # PNG, 2 x 2 pixels, red
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mP8z8DAwMDAxMDAwMDAAAANHQEDaB7T3gAAAABJRU5ErkJggg=="
)
LABELS = ("red", "blue")
SUM_TOLERANCE = 1e-2  # of the scores; bfloat16 rounds at 4e-3
# How the model `admission` begins its refusals under load: it was there to refuse, so the server is alive.
_OVERLOADED = re.compile(r"(?:overloaded|deadline (?:passed|cannot be met)): ")


def probe() -> Flow[tuple[Inference, str | None]]:
    """Make the inference; gives what came of it, and of one that was not answered the reason."""
    ranking = codec.Ranking.check(list(LABELS), hypothesis_template="{}", top_k=None, threshold=None)
    try:
        ((*predictions,),) = yield from infer(codec.classify_call([IMAGE], ranking))
        check_answer(predictions)
    except TritonClipError as error:
        return outcome(error), error.message
    return "ok", None


def check_answer(predictions: list[Prediction]) -> None:
    """Check what the codec does not: raises InferenceError unless the scores sum to 1."""
    total = sum(found["score"] for found in predictions)
    if abs(total - 1) > SUM_TOLERANCE:
        raise InferenceError(f"the scores of an image sum to {total:g}, not to 1")


def outcome(error: TritonClipError) -> Inference:
    """What an error of the probe says of the server."""
    if isinstance(error, ServerUnavailableError) and _OVERLOADED.match(error.message):
        return "overloaded"
    return "timeout" if isinstance(error, DeadlineExceededError) else "failed"
