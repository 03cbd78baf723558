"""Encoding of arguments to tensors and decoding of tensors to results, without I/O.

A `Call` holds everything about one inference except how to send it, so every client does
`call.decode(send(call))`. A request is one request group: a batch dimension of 1, then n images or m texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from tritonclip._answers.predictions import Predictions
from tritonclip._calls import wire
from tritonclip._calls.checks import (
    check_labels,
    check_template,
    check_threshold,
    check_top_k,
    label_warning,
)
from tritonclip._calls.token_counts import TokenCounts, report_counts, report_label_warning
from tritonclip._calls.wire import Tensors
from tritonclip._types import Prediction
from tritonclip.errors import InferenceError, InvalidInputError, ModelNotReadyError

T = TypeVar("T")
LARGE_SCORES, LARGE_TEXTS = 20_000, 1_000  # about 10 ms
MAX_TENSOR_BYTES = 2**31 - 2**20  # protobuf limits a message to 2 GiB; 1 MiB is for the rest
Embeddings = npt.NDArray[np.float32]
_INT32 = np.dtype(np.int32)
SERVER_PARTS = ("queue", "text", "decode", "encode", "score")
"""The parts of the output `timings_us`."""


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T]):
    """One inference, ready to send, and the decoder of its answer.

    Attributes:
        model: The model to call.
        inputs: Its input tensors by name, each with a batch dimension of 1 in front.
        outputs: The outputs to request.
        decode: Decodes the output tensors; raises InferenceError if they are malformed.
        is_large: True if decoding takes long enough to hold up other calls of an event loop.
    """

    model: wire.Model
    inputs: Tensors
    outputs: tuple[wire.Tensor, ...]
    decode: Callable[[Tensors], T]
    is_large: bool = False

    def with_timings(self) -> Call[T]:
        """Return the call with the output `timings_us`."""
        return replace(self, outputs=(*self.outputs, wire.TIMINGS))

    def for_older_server(self, error: ModelNotReadyError) -> Call[T]:
        """Return the call without an output that older servers lack if the error is about it, else raise."""
        kept = tuple(
            one for one in self.outputs if one not in wire.NEWER or f"'{one.name}'" not in error.message
        )
        if kept == self.outputs:
            raise error
        return replace(self, outputs=kept)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The checked arguments of a `classify`, apart from the images.

    Attributes:
        labels: The candidate labels as the caller gave them.
        template: The hypothesis template.
        top_k: Number of labels to keep; None for all.
        threshold: The lowest score to keep; None for all.
    """

    labels: list[str]
    template: str
    top_k: int | None
    threshold: float | None

    @classmethod
    def check(
        cls, labels: object, *, hypothesis_template: object, top_k: object, threshold: object
    ) -> Ranking:
        """Check the arguments of a `classify`, and report labels whose scores say little.

        Raises:
            InvalidInputError: An argument is malformed.
        """
        checked = check_labels(labels)
        if warning := label_warning(labels, checked):
            report_label_warning(warning)
        return cls(
            labels=checked,
            template=check_template(hypothesis_template),
            top_k=check_top_k(top_k),
            threshold=check_threshold(threshold),
        )

    @property
    def prompts(self) -> list[str]:
        """The texts that the text encoder receives."""
        return [self.template.format(label) for label in self.labels]

    def report_counts(self, counts: TokenCounts) -> None:
        """Report the labels' token counts; see `token_counts.report_counts`."""
        report_counts(counts, self.labels, kind="label")

    def rank(self, scores: npt.NDArray[np.float32]) -> list[Predictions]:
        """Rank the labels by scores float32 [n, m]; see `rank`."""
        return rank(scores, self.labels, top_k=self.top_k, threshold=self.threshold)


def classify_call(
    images: Sequence[bytes], ranking: Ranking, report: Callable[[TokenCounts], None] | None = None
) -> Call[list[Predictions]]:
    """Return the call that ranks labels for n encoded images, with a sorted list of predictions per image.

    Args:
        images: The encoded files.
        ranking: See `Ranking`.
        report: Takes the labels' token counts; None reports them with this answer.
    """
    report = report or ranking.report_counts

    def decode(outputs: Tensors) -> list[Predictions]:
        shape = (len(images), len(ranking.labels))
        scores = _group(outputs, wire.SCORES, shape, wire.ZERO_SHOT)  # [n, m]
        counts = decode_token_counts(outputs, len(ranking.labels), wire.ZERO_SHOT)
        report(counts)
        return ranking.rank(scores)

    return Call(
        model=wire.ZERO_SHOT,
        inputs={
            wire.IMAGE.name: bytes_tensor(images),
            wire.LABELS.name: text_tensor(ranking.prompts),
        },
        outputs=(wire.SCORES, wire.TOKEN_COUNTS, wire.TOKEN_LIMIT),
        decode=decode,
        is_large=len(images) * len(ranking.labels) > LARGE_SCORES,
    )


def embed_images_call(images: Sequence[bytes]) -> Call[Embeddings]:
    """Return the call that embeds n encoded images to float32 [n, d], unit L2 norm."""
    model, output = wire.IMAGE_EMBEDDING, wire.IMAGE_EMBEDS
    return Call(
        model=model,
        inputs={wire.IMAGE.name: bytes_tensor(images)},
        outputs=(output,),
        decode=lambda outputs: decode_embeddings(outputs, output, n=len(images), model=model),
    )


def embed_pixels_call(pixels: npt.NDArray[np.uint8]) -> Call[Embeddings]:
    """Return the call that embeds preprocessed images, uint8 [n, 3, h, w]; see `embed_images_call`."""
    model, output = wire.PIXEL_EMBEDDING, wire.IMAGE_EMBEDS
    _check_size(pixels.nbytes, len(pixels))
    return Call(
        model=model,
        inputs={wire.PIXEL_VALUES.name: pixels[np.newaxis]},
        outputs=(output,),
        decode=lambda outputs: decode_embeddings(outputs, output, n=len(pixels), model=model),
    )


def embed_texts_call(texts: Sequence[str]) -> Call[tuple[Embeddings, TokenCounts]]:
    """Return the call that embeds m checked texts to float32 [m, d], unit L2 norm, and token counts."""
    model = wire.TEXT_EMBEDDING

    def decode(outputs: Tensors) -> tuple[Embeddings, TokenCounts]:
        embeds = decode_embeddings(outputs, wire.TEXT_EMBEDS, n=len(texts), model=model)
        return embeds, decode_token_counts(outputs, len(texts), model)

    return Call(
        model=model,
        inputs={wire.TEXT.name: text_tensor(texts)},
        outputs=(wire.TEXT_EMBEDS, wire.TOKEN_COUNTS, wire.TOKEN_LIMIT),
        decode=decode,
        is_large=len(texts) > LARGE_TEXTS,
    )


def bytes_tensor(values: Sequence[bytes]) -> npt.NDArray[np.object_]:
    """Pack bytes as object [1, n]; numpy's bytes dtype would strip trailing zeros.

    Raises:
        InvalidInputError: They exceed the size limit of a message.
    """
    _check_size(sum(map(len, values)) + 4 * len(values), len(values))  # each has a 4-byte length in front
    tensor = np.empty((1, len(values)), dtype=np.object_)
    for index, value in enumerate(values):
        tensor[0, index] = value
    return tensor


def _check_size(size_bytes: int, count: int) -> None:
    if size_bytes > MAX_TENSOR_BYTES:
        raise InvalidInputError(
            f"the {count} inputs have {size_bytes} bytes, over the limit of {MAX_TENSOR_BYTES} bytes "
            "per request; send fewer at once"
        )


def text_tensor(texts: Sequence[str]) -> npt.NDArray[np.object_]:
    """Pack texts as object [1, m] of UTF-8 bytes."""
    return bytes_tensor([text.encode("utf-8") for text in texts])


def decode_token_counts(outputs: Tensors, m: int, model: wire.Model) -> TokenCounts:
    """Decode `token_counts`, int32 [1, m], and `token_limit`, int32 [1, 1], which older servers do not send.

    Raises:
        InferenceError: The counts are missing, or a tensor has another shape or dtype.
    """
    counts: list[int] = _array(outputs, wire.TOKEN_COUNTS, (m,), _INT32, model).tolist()
    if wire.TOKEN_LIMIT.name not in outputs:
        return TokenCounts(counts, wire.OLDER_TOKEN_LIMIT)
    return TokenCounts(counts, int(_array(outputs, wire.TOKEN_LIMIT, (1,), _INT32, model)[0]))


def decode_timings(outputs: Tensors, model: wire.Model) -> list[int] | None:
    """Decode `timings_us`, int64 [1, 5]: the microseconds of each of `SERVER_PARTS`.

    Returns:
        The parts; None if an older server does not send them.

    Raises:
        InferenceError: They have another shape or dtype.
    """
    if wire.TIMINGS.name not in outputs:
        return None
    found: list[int] = _array(outputs, wire.TIMINGS, wire.TIMINGS.dims, np.dtype(np.int64), model).tolist()
    return found


def decode_embeddings(outputs: Tensors, tensor: wire.Tensor, *, n: int, model: wire.Model) -> Embeddings:
    """Decode embeddings float32 [1, n, d] to a writable array [n, d].

    Raises:
        InferenceError: They are missing, have another shape or dtype, or are not finite.
    """
    return _group(outputs, tensor, (n, None), model).copy()  # received arrays are read-only


def rank(
    scores: npt.NDArray[np.float32], labels: Sequence[str], *, top_k: int | None, threshold: float | None
) -> list[Predictions]:
    """Rank labels by scores float32 [n, m], highest score first; ties keep the labels' order."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    ranked = np.take_along_axis(scores, order, axis=1)
    return [
        Predictions(
            [
                Prediction(score=score, label=labels[column])
                for score, column in zip(row_scores, row_columns, strict=True)
                if threshold is None or score >= threshold
            ]
        )
        for row_scores, row_columns in zip(ranked.tolist(), order.tolist(), strict=True)
    ]


def scores(image_embeds: Embeddings, text_embeds: Embeddings, logit_scale: float) -> Embeddings:
    """Compute the server's softmax over the labels: float32 [n, d] and [m, d] -> [n, m], rows sum to 1."""
    logits = np.float32(logit_scale) * (image_embeds @ text_embeds.T)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def similarity(image_embeds: Embeddings, text_embeds: Embeddings) -> Embeddings:
    """Compute all cosines: float32 [n, d] and [m, d], unit L2 norm -> [n, m], -1 to 1."""
    return image_embeds @ text_embeds.T


def _group(
    outputs: Tensors, tensor: wire.Tensor, shape: tuple[int | None, ...], model: wire.Model
) -> npt.NDArray[Any]:
    """Return the request group of an output: finite float32 of the given shape (None: any length)."""
    array = _array(outputs, tensor, shape, np.dtype(np.float32), model)
    if not np.isfinite(array).all():
        raise InferenceError(f"{tensor.name}: the answer contains NaN or infinity", model=model.name)
    return array


def _array(
    outputs: Tensors,
    tensor: wire.Tensor,
    shape: tuple[int | None, ...],
    dtype: np.dtype[Any],
    model: wire.Model,
) -> npt.NDArray[Any]:
    """Return the request group of an output with the given shape (None: any length) and dtype."""
    array = outputs.get(tensor.name)
    if array is None:
        raise InferenceError(f"the answer has no {tensor.name!r}", model=model.name)
    wanted = (1, *shape)
    if (
        array.ndim != len(wanted)
        or any([want not in (None, got) for want, got in zip(wanted, array.shape, strict=True)])
        or array.dtype != dtype
    ):
        expected = ", ".join("?" if want is None else str(want) for want in wanted)
        raise InferenceError(
            f"{tensor.name}: expected {dtype} [{expected}], got {array.dtype} {list(array.shape)}",
            model=model.name,
        )
    return array[0]  # type: ignore[no-any-return]
