"""Answers of `classify`: lists of predictions that notebooks display and data frames take.

They are lists of dictionaries, as those of the transformers pipeline, and equal to plain lists.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, SupportsIndex, cast, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from tritonclip._answers import html
from tritonclip._answers.frames import Column, ColumnType, Tabular
from tritonclip._images.urls import is_data_url, is_url
from tritonclip._messages.text import error_reason, printable
from tritonclip._types import Prediction, Timings
from tritonclip.errors import TritonClipError

BARS_ALONE, BARS_IN_BATCH = 10, 5
BATCH_COLUMNS: dict[str, ColumnType] = {
    "image": "int64",
    "input": "string",
    "label": "string",
    "score": "float64",
    "error": "string",
}
NO_PREDICTION = "no label has a score of at least the threshold"


class Source(NamedTuple):
    """The image that an answer is about; it does not keep pixels or bytes alive.

    Attributes:
        name: The path or URL that the caller gave; for a PIL image the path that it was opened from.
        pixels: A weak reference to a PIL image without a path or to an array.
    """

    name: str | None = None
    pixels: weakref.ref[Image.Image | npt.NDArray[Any]] | None = None

    @classmethod
    def of(cls, image: object) -> Source:
        """Return the source of an `ImageInput`."""
        if isinstance(image, str):
            return cls() if is_url(image) and is_data_url(image) else cls(image)
        if isinstance(image, os.PathLike):
            return cls(os.fsdecode(image))
        path = getattr(image, "filename", None) if isinstance(image, Image.Image) else None
        if isinstance(path, (str, bytes)) and path:
            return cls(os.fsdecode(path))
        if isinstance(image, (Image.Image, np.ndarray)):
            return cls(None, weakref.ref(image))
        return cls()

    @property
    def image(self) -> str | Image.Image | npt.NDArray[Any] | None:
        """The path or URL, the pixels, or None if nothing is kept or the pixels are gone."""
        return self.name if self.pixels is None else self.pixels()


_NO_SOURCE = Source()


class Predictions(Tabular, list[Prediction]):
    """The ranked labels of one image, highest score first: a list of `{"score": float, "label": str}`.

    In a notebook it is displayed with a thumbnail and bars. The image itself is not kept: the answer has the
    path or URL, or a weak reference to the caller's PIL image or array, and reads the image when it is
    displayed. There is no thumbnail for a URL, for bytes, for a file object, or once the image is gone. A
    pickle or copy keeps the path or URL. Columns of a data frame: `label` (string), `score` (float64).

    Args:
        predictions: The predictions.

    Attributes:
        timings: Where the time of the request went, for a client with `timings=True`. Images that were sent
            together share it. None if the server is too old, and for slices, pickles and copies.
    """

    __slots__ = ("_source", "timings")

    def __init__(self, predictions: Iterable[Prediction] = ()) -> None:
        super().__init__(predictions)
        self.timings: Timings | None = None
        self._source = _NO_SOURCE

    @property
    def input(self) -> str | None:
        """The path or URL of the image, or None if it was given in another form."""
        return self._source.name

    @overload
    def __getitem__(self, place: SupportsIndex) -> Prediction: ...

    @overload
    def __getitem__(self, place: slice) -> Predictions: ...

    def __getitem__(self, place: SupportsIndex | slice) -> Prediction | Predictions:
        """Return a prediction, or the predictions of a slice."""
        if isinstance(place, slice):
            return _of_image(super().__getitem__(place), self._source)
        return super().__getitem__(place)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the predictions with the path or URL."""
        return _of_image, (list(self), Source(self.input))

    def _columns(self) -> dict[str, Column]:
        return {
            "label": Column("string", [one["label"] for one in self]),
            "score": Column("float64", [one["score"] for one in self]),
        }

    def _repr_html_(self) -> str:
        """Return a table for a notebook: the thumbnail, and bars of the best labels."""
        return html.table([self._cells(BARS_ALONE)], 1)

    def _cells(self, max_bars: int) -> tuple[str, str]:
        scored = [(one["label"], one["score"]) for one in self]
        ranked = html.bars(scored, max_bars) if scored else html.note(NO_PREDICTION)
        return html.picture(self._source.image), html.name(self.input) + ranked


class PredictionBatch(Tabular, list[Predictions]):
    """The answers of several images, in their order: a list of `Predictions`.

    `PredictionBatch(client.classify_many(...))` makes one of a bulk run. It may contain the errors of a run
    with `on_error="return"`. A data frame has a row for each image and label, with the columns `image`
    (int64, the index), `input` (string, the path or URL), `label` (string), `score` (float64) and `error`
    (string); an image without predictions has one row without a label.

    Args:
        answers: Answers of images. Plain lists of predictions become `Predictions`.

    Attributes:
        timings: Where the time of the request went; see `Predictions`. None for a bulk run, whose answers
            have their own.
    """

    __slots__ = ("timings",)

    def __init__(self, answers: Iterable[Sequence[Prediction] | TritonClipError] = ()) -> None:
        kept = (
            one if isinstance(one, (Predictions, TritonClipError)) else Predictions(one) for one in answers
        )
        super().__init__(cast(Iterable[Predictions], kept))
        self.timings: Timings | None = None

    @overload
    def __getitem__(self, place: SupportsIndex) -> Predictions: ...

    @overload
    def __getitem__(self, place: slice) -> PredictionBatch: ...

    def __getitem__(self, place: SupportsIndex | slice) -> Predictions | PredictionBatch:
        """Return the answer of an image, or the answers of a slice."""
        if isinstance(place, slice):
            return PredictionBatch(super().__getitem__(place))
        return super().__getitem__(place)

    def _columns(self) -> dict[str, Column]:
        rows: list[tuple[object, ...]] = []
        for index, one in enumerate(cast("list[Predictions | TritonClipError]", self)):
            if isinstance(one, TritonClipError):
                rows.append((index, None, None, None, error_reason(one)))
                continue
            name = None if one.input is None else printable(one.input)
            rows.extend((index, name, each["label"], each["score"], None) for each in one)
            if not one:
                rows.append((index, name, None, None, None))
        return {
            name: Column(kind, [row[place] for row in rows])
            for place, (name, kind) in enumerate(BATCH_COLUMNS.items())
        }

    def _repr_html_(self) -> str:
        """Return a table for a notebook, with a row for each of the first images."""
        rows = (_row(one) for one in cast("list[Predictions | TritonClipError]", self))
        return html.table(rows, len(self))


def answer(ranked: list[Predictions], images: object, *, single: bool) -> Predictions | PredictionBatch:
    """Return the answer of a `classify`: that of the image, or those of the images.

    Args:
        ranked: The predictions of each image.
        images: The argument of `classify`.
        single: True if it is a single image.
    """
    name_images(ranked, [images] if single else cast(Sequence[object], images))
    return ranked[0] if single else PredictionBatch(ranked)


def name_images(answers: Iterable[Predictions | TritonClipError], images: Iterable[object]) -> None:
    """Tell each answer its image; see `Predictions`."""
    for one, image in zip(answers, images, strict=True):
        if isinstance(one, Predictions):
            one._source = Source.of(image)


def _of_image(predictions: Iterable[Prediction], source: Source) -> Predictions:
    made = Predictions(predictions)
    made._source = source
    return made


def _row(one: Predictions | TritonClipError) -> tuple[str, str]:
    if isinstance(one, TritonClipError):
        return "", html.text(f"error: {one.message}")
    return one._cells(BARS_IN_BATCH)
