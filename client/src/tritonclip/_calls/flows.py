"""The methods of the clients as flows, with labels scored on the server. Nothing is sent here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from tritonclip._answers.predictions import PredictionBatch, Predictions, answer, name_images
from tritonclip._calls import codec
from tritonclip._calls.checks import check_text, check_texts
from tritonclip._calls.request import Request
from tritonclip._calls.steps import Flow, infer, infer_versioned, work
from tritonclip._calls.token_counts import LabelReport, report_counts
from tritonclip._images.fetch import Fetcher
from tritonclip._images.sources import Fetch, as_images, encode_image, encode_images, map_images
from tritonclip._settings import Settings
from tritonclip.errors import InferenceError, InvalidInputError, ServerUnavailableError, TritonClipError

E = TypeVar("E")
I = TypeVar("I")  # noqa: E741
R = TypeVar("R")
Array = npt.NDArray[np.float32]

Group = list[tuple[int, I]]
"""Inputs of one request of a bulk run, each with its index in the run."""

MAX_PROMPTS_PER_REQUEST = 1000  # for labels that are embedded apart from images
MODELS_CHANGED = (
    "the server's models were changed during the call, or servers of different versions share it; try again"
)
_ABOUT_LABELS = re.compile(r"\blabels?\b")
_FIRST_ITEM = re.compile(r"^(?:image|label|text) 0\b")
_LABEL = re.compile(r"^label\b")


class Embeds(NamedTuple):
    """Embeddings of unit L2 norm, and the version of the model that made them."""

    array: Array
    version: str


class Flows:
    """The flows of one client whose images are preprocessed and scored on the server.

    Args:
        settings: The client's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self.fetcher = Fetcher(settings.fetch_timeout_s, settings.fetch_max_bytes)

    def classify(self, images: object, ranking: codec.Ranking) -> Flow[Predictions | PredictionBatch]:
        """Rank labels for one image or several."""
        encoded, single = yield from self._encode(images)
        ranked = yield from infer(codec.classify_call(encoded, ranking))
        return answer(ranked, images, single=single)

    def embed_images(self, images: object) -> Flow[tuple[Array, bool]]:
        """Embed images to float32 [n, d]; also return True if a single image was given."""
        embeds, single = yield from self.embed_images_versioned(images)
        return embeds.array, single

    def embed_images_versioned(self, images: object) -> Flow[tuple[Embeds, bool]]:
        """Embed images to float32 [n, d] with a version; also return True if a single image was given."""
        encoded, single = yield from self._encode(images)
        return Embeds(*(yield from infer_versioned(codec.embed_images_call(encoded)))), single

    def embed_texts(self, texts: object) -> Flow[tuple[Array, bool]]:
        """Embed texts to float32 [m, d]; also return True if a single text was given."""
        checked, single = check_texts(texts)
        return (yield from _embed_texts(checked)).array, single

    def similarity(self, images: object, texts: object) -> Flow[Array]:
        """Return the cosine of every image with every text, float32 [n, m]."""
        checked, _ = check_texts(texts)
        text_embeds = yield from _embed_texts(checked)
        image_embeds, _ = yield from self.embed_images_versioned(images)
        if text_embeds.version != image_embeds.version:
            text_embeds = yield from _embed_texts(checked)
        check_same_version(image_embeds.version, text_embeds.version)
        return codec.similarity(image_embeds.array, text_embeds.array)

    def classify_group(
        self, group: Group[Any], ranking: codec.Ranking, report: LabelReport
    ) -> Flow[list[Predictions | TritonClipError]]:
        """Rank labels for each image of a group in a bulk run.

        Raises:
            InvalidInputError: The labels are invalid, which no other image can change.
        """
        ranked = yield from answer_group(
            group,
            self._encode_one,
            lambda items: infer(codec.classify_call([one for _, one in items], ranking, report)),
            ends_run=_is_about_labels,
        )
        name_images(ranked, [image for _, image in group])
        return ranked

    def embed_images_group(self, group: Group[Any]) -> Flow[list[Array | TritonClipError]]:
        """Embed each image of a group in a bulk run, float32 [d]."""
        return (
            yield from answer_group(
                group,
                self._encode_one,
                lambda items: infer(codec.embed_images_call([one for _, one in items])),
            )
        )

    def embed_texts_group(self, group: Group[Any]) -> Flow[list[Array | TritonClipError]]:
        """Embed each text of a group in a bulk run, float32 [d]."""
        return (yield from answer_group(group, lambda text, index, _: check_text(text, index), _send_texts))

    def fetch_within(self, request: Request) -> Fetch:
        """Return a function that fetches an image by URL within the request's deadline."""
        return lambda url, name: self.fetcher.fetch(url, name, request.deadline.left_s)

    def _encode(self, images: object) -> Flow[tuple[list[bytes], bool]]:
        """Encode images; also return True if a single image was given. Bytes alone do not block."""
        several, single = as_images(images)
        if all([isinstance(image, bytes) for image in several]):
            return encode_images(several), single
        return (yield from work(lambda request: encode_images(several, self.fetch_within(request)))), single

    def _encode_one(self, image: object, index: int, request: Request) -> bytes:
        return encode_image(image, index, self.fetch_within(request))


def check_same_version(one: str, other: str) -> None:
    """Raise ServerUnavailableError if two versions differ: they may be different checkpoints."""
    if one != other:
        raise ServerUnavailableError(MODELS_CHANGED)


def answer_group(
    group: Group[Any],
    prepare: Callable[[Any, int, Request], E],
    send: Callable[[Sequence[tuple[int, E]]], Flow[Iterable[R]]],
    ends_run: Callable[[TritonClipError], bool] = lambda error: False,
) -> Flow[list[R | TritonClipError]]:
    """Prepare a group's inputs and send them in one request; return an error for each bad input.

    Args:
        group: The inputs.
        prepare: Prepares one input, given with its index and the request.
        send: Sends prepared inputs.
        ends_run: Returns True if an error concerns the whole run; such an error is raised.
    """

    def attempt(value: Any, index: int, request: Request) -> E | TritonClipError:
        try:
            return prepare(value, index, request)
        except TritonClipError as error:
            return error

    prepared = yield from work(
        lambda request: map_images(lambda value, index: attempt(value, index, request), group)
    )
    good = [
        (index, one)
        for (index, _), one in zip(group, prepared, strict=True)
        if not isinstance(one, TritonClipError)
    ]
    answers = iter((yield from _bisect(good, send, ends_run)) if good else ())
    return [one if isinstance(one, TritonClipError) else next(answers) for one in prepared]


def _bisect(
    items: Sequence[tuple[int, E]],
    send: Callable[[Sequence[tuple[int, E]]], Flow[Iterable[R]]],
    ends_run: Callable[[TritonClipError], bool],
) -> Flow[list[R | TritonClipError]]:
    """Send all items at once; if that fails, send each half, so that only the bad items fail."""
    try:
        return list((yield from send(items)))
    except (InvalidInputError, InferenceError) as error:
        if ends_run(error):
            raise
        if len(items) == 1:
            # The server counts within the request; the caller needs the index in the run.
            error.message = _FIRST_ITEM.sub(
                lambda found: found[0].replace("0", str(items[0][0])), error.message
            )
            return [error]
    middle = len(items) // 2
    first = yield from _bisect(items[:middle], send, ends_run)
    return first + (yield from _bisect(items[middle:], send, ends_run))


def _is_about_labels(error: TritonClipError) -> bool:
    """Return True if the server rejects the labels, which all requests of a run share."""
    text = error.message
    return (
        isinstance(error, InvalidInputError)
        and not text.startswith("image")
        and bool(_ABOUT_LABELS.search(text))
    )


def _send_texts(items: Sequence[tuple[int, str]]) -> Flow[Array]:
    """Embed checked texts, each with its index in the run, to float32 [m, d]."""
    indices, texts = [index for index, _ in items], [text for _, text in items]
    return (yield from _embed_texts(texts, indices)).array


def _embed_texts(texts: list[str], indices: Sequence[int] | None = None) -> Flow[Embeds]:
    """Embed checked texts to float32 [m, d]; `indices` are those in the caller's list."""
    try:
        (embeds, counts), version = yield from infer_versioned(codec.embed_texts_call(texts))
    except InvalidInputError as error:  # the server's text encoder calls every text a label
        error.message = _LABEL.sub("text", error.message)
        raise
    report_counts(counts, texts, kind="text", indices=indices)
    return Embeds(embeds, version)
