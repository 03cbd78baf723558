"""The public types of arguments and results."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, Literal, NamedTuple, TypedDict, Union

import numpy as np
import numpy.typing as npt
from PIL import Image

#: One image: a path, a URL (http, https or data, fetched by the client), the bytes of an encoded file, a
#: binary file object, a PIL image, or an array [h, w], [h, w, 3] or [h, w, 4]. An array is uint8, bool,
#: uint16 with 65535 as white, or floats from 0 to 1.
ImageInput = Union[
    str,
    "os.PathLike[str]",
    bytes,
    bytearray,
    memoryview,
    IO[bytes],
    Image.Image,
    "npt.NDArray[np.uint8 | np.uint16 | np.bool_ | np.floating[Any]]",
]

#: The outcome of a deep health check's inference. `overloaded`: the server is alive and rejects work for now.
Inference = Literal["ok", "overloaded", "timeout", "failed"]


class Prediction(TypedDict):
    """One label of an image and its score, with the keys of the transformers pipeline.

    Attributes:
        score: Softmax over the candidate labels, 0 to 1.
        label: The candidate label as the caller gave it.
    """

    score: float
    label: str


class Timings(NamedTuple):
    """Where the time of a call went, in milliseconds. The parts add up to the whole.

    A step that works on a batch counts in full for each request of it. The parts of several requests, as
    `similarity` sends, are summed.

    Attributes:
        queue_ms: Waiting on the server, between its steps.
        text_ms: Text encoding; next to nothing for labels in the server's cache.
        decode_ms: Decoding and resizing of images on the server.
        encode_ms: Image encoding.
        score_ms: Scoring.
        wire_ms: Between client and server: serialization, network, retries, and Triton's own front end.
        client_ms: In the client: reading and encoding of images, checks, ranking. With `preprocess="client"`
            also decoding, resizing and scoring.
    """

    queue_ms: float
    text_ms: float
    decode_ms: float
    encode_ms: float
    score_ms: float
    wire_ms: float
    client_ms: float

    @property
    def total_ms(self) -> float:
        """The time of the call."""
        return sum(self)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The version of a model that is served. Answers can be compared if their models' `identity` is equal.

    Attributes:
        name: The model's name.
        checkpoint: Hub ID or directory from which its weights were prepared.
        revision: The Hub commit, or "local".
        sha256: SHA-256 of the weights, hexadecimal.
        random_weights: True if the weights are random numbers, for load tests.
        logit_scale: The multiplier from cosine to logit (about 100 for OpenAI's weights).
        version: The model's version; empty if the server does not report it.
        identity: Hexadecimal digest of everything that can change an answer: weights, settings, tokenizer,
            code and precision. Empty if an older release prepared the model repository.
    """

    name: str
    checkpoint: str
    revision: str
    sha256: str
    random_weights: bool
    logit_scale: float
    version: str = ""
    identity: str = ""


@dataclass(frozen=True, kw_only=True)
class Health:
    """The state of a server that answered.

    Attributes:
        live: True if the server runs.
        ready: True if the server accepts inference requests.
        models: True for each public model that is ready.
        inference: The outcome of an inference; None without `deep`.
        reason: The reason if the inference was not answered, or if the server is not live.
    """

    live: bool
    ready: bool
    models: Mapping[str, bool]
    inference: Inference | None = None
    reason: str | None = None

    @property
    def ok(self) -> bool:
        """True if the server and every model are ready and the inference, if any, did not fail.

        An overloaded server is ok: restarting or removing it would make the overload worse.
        """
        answers = self.inference in (None, "ok", "overloaded")
        return self.live and self.ready and all(self.models.values()) and answers


@dataclass(frozen=True, kw_only=True)
class ModelStatistics:
    """Triton's statistics of one model, an ensemble or one of its steps, since the server started.

    Attributes:
        name: The model's name.
        version: The model's version.
        requests: Requests that were answered.
        failures: Requests that failed, including rejected input. They are counted at the ensembles, not at
            their steps; Triton 2.51 counts each twice.
        rows: Request groups that were answered; Triton batches these.
        executions: Dynamic batches; for an ensemble, its requests.
        mean_ms: Mean time of a request inside the server, in milliseconds.
        queue_ms: Mean time in the model's queue, included in `mean_ms`.
        compute_ms: Mean time in the model, including input and output, included in `mean_ms`.
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
        """Mean number of request groups per dynamic batch; 0 if there was none."""
        return self.rows / self.executions if self.executions else 0.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a bulk run.

    Attributes:
        done: Inputs whose results, including errors, were returned.
        failed: Inputs whose result is an error.
        retries: Requests that were retried because the server was unavailable or too slow.
        total: Number of inputs; None if the run does not know it.
    """

    done: int
    failed: int
    retries: int
    total: int | None = None
