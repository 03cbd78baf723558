"""Arguments to tensors and tensors to answers: pure functions, no input or output.

A `Call` holds all of one request but the sending, so that every client is `call.decode(send(call))`.
A request is one request group: the batch dimension is 1, then n images or m texts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from tritonclip import _wire
from tritonclip._checks import check_labels, check_template, check_texts, check_threshold, check_top_k
from tritonclip._types import ModelInfo, Prediction, Tensors
from tritonclip.errors import InferenceError, InvalidInputError, ModelNotReadyError, TruncatedTextWarning

T = TypeVar("T")
SHOWN_CHARACTERS = 60
MAX_TENSOR_BYTES = 2**31 - 2**20  # gRPC and protobuf end at 2 GiB a message; 1 MiB is for the rest
Embeddings = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T]):
    """One request, ready to send, and how to read its answer.

    Attributes:
        model: The model to call.
        inputs: Its input tensors by name, each with the batch dimension of 1 in front.
        outputs: The outputs to ask for.
        decode: Turns the output tensors into the answer; raises InferenceError if they do not fit.
    """

    model: _wire.Model
    inputs: Tensors
    outputs: tuple[_wire.Tensor, ...]
    decode: Callable[[Tensors], T]


def classify_call(
    images: Sequence[bytes],
    labels: object,
    *,
    hypothesis_template: object,
    top_k: object = None,
    threshold: object = None,
) -> Call[list[list[Prediction]]]:
    """Rank labels for n encoded images; the answer is one sorted list of predictions an image."""
    names = check_labels(labels)
    template = check_template(hypothesis_template)
    keep, floor = check_top_k(top_k), check_threshold(threshold)

    def decode(outputs: Tensors) -> list[list[Prediction]]:
        ranked = decode_predictions(outputs, names, n=len(images), top_k=keep, threshold=floor)
        warn_of_cuts(outputs, names, kind="label", model=_wire.ZERO_SHOT)
        return ranked

    return Call(
        model=_wire.ZERO_SHOT,
        inputs={
            _wire.IMAGE.name: bytes_tensor(images),
            _wire.LABELS.name: text_tensor([template.format(name) for name in names]),
        },
        outputs=(_wire.SCORES, _wire.TOKEN_COUNTS),
        decode=decode,
    )


def embed_images_call(images: Sequence[bytes]) -> Call[Embeddings]:
    """Embed n encoded images; the answer is float32 [n, d], unit L2 norm."""
    model, output = _wire.IMAGE_EMBEDDING, _wire.IMAGE_EMBEDS
    return Call(
        model=model,
        inputs={_wire.IMAGE.name: bytes_tensor(images)},
        outputs=(output,),
        decode=lambda outputs: decode_embeddings(outputs, output, n=len(images), model=model),
    )


def embed_texts_call(texts: object) -> tuple[Call[Embeddings], bool]:
    """Embed m texts to float32 [m, d], unit L2 norm; also tells whether a single text was given."""
    checked, single = check_texts(texts)
    model = _wire.TEXT_EMBEDDING

    def decode(outputs: Tensors) -> Embeddings:
        embeds = decode_embeddings(outputs, _wire.TEXT_EMBEDS, n=len(checked), model=model)
        warn_of_cuts(outputs, checked, kind="text", model=model)
        return embeds

    call = Call(
        model=model,
        inputs={_wire.TEXT.name: text_tensor(checked)},
        outputs=(_wire.TEXT_EMBEDS, _wire.TOKEN_COUNTS),
        decode=decode,
    )
    return call, single


def bytes_tensor(values: Sequence[bytes]) -> npt.NDArray[np.object_]:
    """Bytes to object [1, n]. Never numpy's own bytes dtype, which strips trailing zeros.

    Raises:
        InvalidInputError: If they are more than one message can hold.
    """
    size_bytes = sum(len(value) + 4 for value in values)  # each with its length in front
    if size_bytes > MAX_TENSOR_BYTES:
        raise InvalidInputError(
            f"the {len(values)} inputs have {size_bytes} bytes, over the limit of {MAX_TENSOR_BYTES} bytes "
            "a request; send fewer at once"
        )
    tensor = np.empty((1, len(values)), dtype=np.object_)
    for index, value in enumerate(values):
        tensor[0, index] = value
    return tensor


def text_tensor(texts: Sequence[str]) -> npt.NDArray[np.object_]:
    """Texts to object [1, m] of UTF-8 bytes."""
    return bytes_tensor([text.encode("utf-8") for text in texts])


def warn_of_cuts(outputs: Tensors, texts: Sequence[str], *, kind: str, model: _wire.Model) -> None:
    """Warns by TruncatedTextWarning of the texts that were cut, from `token_counts` int32 [1, m].

    Raises:
        InferenceError: If the counts are missing, or of another shape or dtype.
    """
    counts = _array(outputs, _wire.TOKEN_COUNTS, (len(texts),), np.dtype(np.int32), model)
    for index in np.flatnonzero(counts > _wire.MAX_TOKENS).tolist():
        warnings.warn(
            f"{kind} {index} has {counts[index]} tokens and was cut at {_wire.MAX_TOKENS}: "
            f"{texts[index][:SHOWN_CHARACTERS]!r}",
            TruncatedTextWarning,
            stacklevel=2,
        )


def decode_predictions(
    outputs: Tensors, labels: Sequence[str], *, n: int, top_k: int | None, threshold: float | None
) -> list[list[Prediction]]:
    """Scores float32 [1, n, m] to n lists of predictions, highest score first; ties keep the labels' order.

    Raises:
        InferenceError: If the scores are missing, of another shape or dtype, or not finite.
    """
    scores = _group(outputs, _wire.SCORES, (n, len(labels)), _wire.ZERO_SHOT)  # [n, m]
    return rank(scores, labels, top_k=top_k, threshold=threshold)


def decode_embeddings(outputs: Tensors, tensor: _wire.Tensor, *, n: int, model: _wire.Model) -> Embeddings:
    """Embeddings float32 [1, n, d] to an array of the caller's own, [n, d].

    Raises:
        InferenceError: If they are missing, of another shape or dtype, or not finite.
    """
    return _group(outputs, tensor, (n, None), model).copy()  # received arrays are read-only


def decode_model_info(model: _wire.Model, parameters: Mapping[str, str]) -> ModelInfo:
    """The parameters of a model's configuration to what they say of its weights.

    Raises:
        ModelNotReadyError: If one is missing.
    """
    try:
        return ModelInfo(
            name=model.name,
            checkpoint=parameters["checkpoint"],
            revision=parameters["revision"],
            sha256=parameters["sha256"],
            random_weights=parameters["random_weights"] == "true",
            logit_scale=float(parameters["logit_scale"]),
        )
    except KeyError as error:
        raise ModelNotReadyError(
            f"its configuration has no parameter {error}; prepare the repository with prepare_weights.py",
            model=model.name,
        ) from error


def rank(
    scores: npt.NDArray[np.float32], labels: Sequence[str], *, top_k: int | None, threshold: float | None
) -> list[list[Prediction]]:
    """Scores float32 [n, m] to n lists of predictions, highest score first; ties keep the labels' order."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    ranked = np.take_along_axis(scores, order, axis=1)
    return [
        [
            Prediction(score=score, label=labels[column])
            for score, column in zip(row_scores, row_columns, strict=True)
            if threshold is None or score >= threshold
        ]
        for row_scores, row_columns in zip(ranked.tolist(), order.tolist(), strict=True)
    ]


def similarity(image_embeds: Embeddings, text_embeds: Embeddings) -> Embeddings:
    """Cosine of every image with every text: float32 [n, d] and [m, d], unit L2 norm -> [n, m], -1 to 1."""
    return image_embeds @ text_embeds.T


def _group(
    outputs: Tensors, tensor: _wire.Tensor, shape: tuple[int | None, ...], model: _wire.Model
) -> npt.NDArray[Any]:
    """The one request group of an output, float32 of the given shape (None: any length) and finite."""
    array = _array(outputs, tensor, shape, np.dtype(np.float32), model)
    if not np.isfinite(array).all():
        raise InferenceError(f"{tensor.name}: the answer holds NaN or infinity", model=model.name)
    return array


def _array(
    outputs: Tensors,
    tensor: _wire.Tensor,
    shape: tuple[int | None, ...],
    dtype: np.dtype[Any],
    model: _wire.Model,
) -> npt.NDArray[Any]:
    """The one request group of an output, of the given shape (None: any length) and dtype."""
    array = outputs.get(tensor.name)
    if array is None:
        raise InferenceError(f"the answer holds no {tensor.name!r}", model=model.name)
    wanted = (1, *shape)
    fits = len(array.shape) == len(wanted) and all(
        want in (None, got) for want, got in zip(wanted, array.shape, strict=True)
    )
    if not fits or array.dtype != dtype:
        expected = ", ".join("?" if want is None else str(want) for want in wanted)
        raise InferenceError(
            f"{tensor.name}: expected {dtype} [{expected}], got {array.dtype} {list(array.shape)}",
            model=model.name,
        )
    return array[0]  # type: ignore[no-any-return]
