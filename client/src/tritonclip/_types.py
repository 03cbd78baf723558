"""The public value types: what goes into the clients and what comes out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple, TypedDict, Union

import numpy as np
import numpy.typing as npt
from PIL import Image

#: One image: a path; a URL (http, https or data), which the client fetches; the bytes of an encoded file; a
#: binary file object; a PIL image; or uint8 pixels [h, w], [h, w, 3] or [h, w, 4].
ImageInput = Union[
    str, "os.PathLike[str]", bytes, bytearray, memoryview, IO[bytes], Image.Image, "npt.NDArray[np.uint8]"
]

#: What came of a health check's inference. `overloaded`: the server lives, and refuses work for now.
Inference = Literal["ok", "overloaded", "timeout", "failed"]

#: The tensors of a request or an answer, by name.
Tensors = dict[str, "npt.NDArray[Any]"]


class Answer(NamedTuple):
    """What came of an inference.

    Attributes:
        outputs: By name.
        version: Of the model that answered: another number may be another checkpoint.
    """

    outputs: Tensors
    version: str


class Prediction(TypedDict):
    """One label of an image and its score, keys in the order of the transformers pipeline.

    Attributes:
        score: Softmax over the candidate labels, 0 to 1.
        label: The candidate label as it was given.
    """

    score: float
    label: str


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a server says of a model; embeddings may be compared where `sha256` is equal.

    Attributes:
        name: The model's name.
        checkpoint: Hub id or directory that its weights were prepared from.
        revision: The hub's commit, or "local".
        sha256: Of the weights, hexadecimal.
        random_weights: The weights are random numbers, for load tests.
        logit_scale: The multiplier from cosine to logit (about 100 for OpenAI's weights).
        version: Number of the model's version directory; empty where the server does not say.
    """

    name: str
    checkpoint: str
    revision: str
    sha256: str
    random_weights: bool
    logit_scale: float
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class Health:
    """The state of a server that answered.

    Attributes:
        live: The server runs.
        ready: The server accepts inference requests.
        models: For each public model, whether it is ready.
        inference: What came of a true inference; None where none was asked for (`deep`).
        reason: Why that inference was not answered.
    """

    live: bool
    ready: bool
    models: Mapping[str, bool]
    inference: Inference | None = None
    reason: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the server is live and ready, with every model, and its inference, if any, did not fail.

        An overloaded server is ok: to restart it, or to take it away, would make matters worse.
        """
        answers = self.inference in (None, "ok", "overloaded")
        return self.live and self.ready and all(self.models.values()) and answers


@dataclass(frozen=True, kw_only=True)
class ModelStatistics:
    """What a model has done since its server started, as Triton counts; ensembles and their steps apart.

    Attributes:
        name: The model's name.
        version: Its version.
        requests: Requests that were answered.
        failures: Requests that failed, refused input included. Counted at the ensembles, not at their steps,
            and by Triton 2.51 twice each.
        rows: Request groups that were answered; Triton batches these.
        executions: Dynamic batches; for an ensemble, its requests.
        mean_ms: Mean time of a request inside the server, in milliseconds.
        queue_ms: Of that, waiting for the model.
        compute_ms: Of that, the model's own work, with taking inputs in and giving outputs out.
    """

    name: str
    version: str
    requests: int
    failures: int
    rows: int
    executions: int
    mean_ms: float
    queue_ms: float
    compute_ms: float

    @property
    def mean_batch(self) -> float:
        """Request groups in a dynamic batch, on average; 0 where there was none."""
        return self.rows / self.executions if self.executions else 0.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a bulk run is.

    Attributes:
        done: Inputs whose results, errors included, were handed out.
        failed: Of these, errors.
        retries: Requests that were sent again because the server was unavailable or too slow.
    """

    done: int
    failed: int
    retries: int
