"""The call form of transformers' zero-shot-image-classification pipeline, answered by a server.

Source: transformers 5.23, pipelines/zero_shot_image_classification.py and pipelines/base.py, for the
arguments and for which inputs give a list or an iterator.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from tritonclip._answers.predictions import PredictionBatch, Predictions, answer
from tritonclip._calls.checks import DEFAULT_HYPOTHESIS_TEMPLATE
from tritonclip._calls.request import RequestOptions
from tritonclip._messages.keywords import suggests_keywords
from tritonclip._settings import ClientOptions
from tritonclip._types import ImageInput
from tritonclip.client import Client, ImageT
from tritonclip.errors import InvalidInputError

if TYPE_CHECKING:
    from typing_extensions import Unpack

TASK = "zero-shot-image-classification"
MAX_IMAGES_PER_REQUEST = 256  # the default limit of the server
CandidateLabels = list[str] | tuple[str, ...] | str | None


class CallOptions(RequestOptions, total=False):
    """The keyword arguments of a call in the form of transformers; None takes the default.

    Attributes:
        images: Another name of `image`, as in earlier versions of transformers.
        hypothesis_template: Sentence with one `{}` for the label.
        top_k: Keep only this many labels per image, those with the highest scores.
        threshold: Keep only scores of at least this much, 0 to 1.
        timeout: Another name of `timeout_s`, in seconds. It limits the whole request, not only fetching.
        batch_size: Maximum number of images per request. Default: 256 for a list, 16 for other inputs.
        num_workers: Has no effect, because the server decodes the images.
    """

    images: Any
    hypothesis_template: str | None
    top_k: int | None
    threshold: float | None
    timeout: float | None
    batch_size: int | None
    num_workers: int | None


@suggests_keywords(CallOptions)
class ZeroShotImageClassificationPipeline:
    """A pipeline whose candidate labels come with each call; `pipeline` makes it.

    Args:
        client: Classifies the images.
        **defaults: Options of calls that do not give them.

    Attributes:
        client: The client; close it when the pipeline is no longer used.
        task: "zero-shot-image-classification".
    """

    task = TASK

    def __init__(self, client: Client, **defaults: Unpack[CallOptions]) -> None:
        self.client = client
        self._defaults = defaults

    @overload
    def __call__(
        self,
        image: list[ImageT] | tuple[ImageT, ...],
        candidate_labels: CandidateLabels,
        **options: Unpack[CallOptions],
    ) -> PredictionBatch: ...

    @overload
    def __call__(
        self, image: ImageInput, candidate_labels: CandidateLabels, **options: Unpack[CallOptions]
    ) -> Predictions: ...

    @overload
    def __call__(
        self, image: Any = None, candidate_labels: CandidateLabels = None, **options: Unpack[CallOptions]
    ) -> Any: ...

    def __call__(
        self, image: Any = None, candidate_labels: CandidateLabels = None, **options: Unpack[CallOptions]
    ) -> Any:
        """Rank candidate labels for images.

        Args:
            image: One `ImageInput`, a list or tuple, or a generator, an iterator or a dataset of them.
            candidate_labels: The labels; see `Client.classify`.
            **options: See `CallOptions`.

        Returns:
            `[{"score": float, "label": str}, ...]`, highest score first; a list of these for a list, and an
            iterator over them for a generator, an iterator or a dataset, which is read lazily.

        Raises:
            InvalidInputError: There are no images or no labels, or one is malformed.
        """
        if candidate_labels is None:
            raise InvalidInputError("candidate_labels: there are none; give a list of at least one label")
        return classify_inputs(
            image,
            partial(self.client.classify, labels=candidate_labels),
            partial(self.client.classify_many, labels=candidate_labels),
            without_none(self._defaults) | without_none(options),
        )

    def __repr__(self) -> str:
        """Return the task and the server."""
        return f"<tritonclip.pipeline {self.task}, {self.client.endpoint}>"


def pipeline(
    task: str | None = None,
    model: str | Client | None = None,
    *,
    hypothesis_template: str = DEFAULT_HYPOTHESIS_TEMPLATE,
    timeout: float | None = None,
    batch_size: int | None = None,
    num_workers: int | None = None,
    device: object = None,
    device_map: object = None,
    **options: Unpack[ClientOptions],
) -> ZeroShotImageClassificationPipeline:
    """Make a zero-shot-image-classification pipeline that calls like transformers' and runs on a server.

    Args:
        task: "zero-shot-image-classification", which is also the default.
        model: The server's URL, or a `Client`. None: `TRITONCLIP_URL`, else localhost; see `Client`.
        hypothesis_template: Template of calls that give none.
        timeout: `timeout` of calls that give none, in seconds.
        batch_size: `batch_size` of calls that give none.
        num_workers: Has no effect; so do `device` and `device_map`, since the model runs on the server.
        device: See `num_workers`.
        device_map: See `num_workers`.
        **options: Settings of the client that is made for a URL; see `ClientOptions`.

    Raises:
        InvalidInputError: It is another task, or the URL is malformed.
        TypeError: There is no such argument. Those that would change the model, such as `dtype` or
            `tokenizer`, are among them, because the server has chosen the model.
    """
    if task not in (None, TASK):
        raise InvalidInputError(
            f"task {task!r}: only {TASK!r} is served; for embeddings call Client.embed_images and embed_texts"
        )
    if isinstance(model, Client):
        if options:
            raise InvalidInputError(f"{', '.join(options)}: give these settings to the Client instead")
        client = model
    else:
        client = Client(model, **options)
    return ZeroShotImageClassificationPipeline(
        client, hypothesis_template=hypothesis_template, timeout=timeout, batch_size=batch_size
    )


def classify_inputs(
    image: Any,
    classify: Callable[..., Predictions | PredictionBatch],
    classify_many: Callable[..., Iterator[Any]],
    options: dict[str, Any],
) -> Any:
    """Classify the images of a call: in one request, in several for a long list, or lazily for a stream.

    Args:
        image: One image, a list or tuple of images, or a stream; see `as_stream`.
        classify: Called with one image or a list.
        classify_many: Called with an iterable of images.
        options: The `CallOptions` that were given; it is consumed.

    Raises:
        InvalidInputError: There are no images, or they are given twice.
    """
    images, batch_size = options.pop("images", None), options.pop("batch_size", None)
    options.pop("num_workers", None)
    if "timeout" in options:
        options.setdefault("timeout_s", options.pop("timeout"))
    if (image is None) == (images is None):
        problem = "there is none" if image is None else "it is given twice, as image= and as images="
        raise InvalidInputError(f"image: {problem}; give one image, a list, a generator or a dataset")
    inputs = images if image is None else image
    stream = as_stream(inputs)
    if stream is not None:
        return classify_many(stream, batch_size=batch_size, **options)
    if isinstance(inputs, (list, tuple)) and len(inputs) > (batch_size or MAX_IMAGES_PER_REQUEST):
        ranked = list(classify_many(inputs, batch_size=batch_size, **options))
        return answer(ranked, inputs, single=False)
    return classify(inputs, **options)


def without_none(options: CallOptions) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def as_stream(images: Any) -> Iterable[Any] | None:
    """Return an iterable over a generator, an iterator or a dataset; None for an image, a list or a tuple.

    A dataset has `__getitem__`, and `__len__` or `__iter__`, as those of torch and of Hugging Face.
    """
    plain = (list, tuple, str, bytes, bytearray, memoryview, dict, set, os.PathLike)
    if isinstance(images, plain) or hasattr(images, "read") or hasattr(images, "__array__"):
        return None
    if hasattr(images, "__getitem__") and hasattr(images, "__len__"):
        return (images[index] for index in range(len(images)))
    return images if isinstance(images, Iterable) else None
