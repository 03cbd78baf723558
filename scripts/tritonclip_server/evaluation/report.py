"""Accuracy, per-class table and confusion matrices of an evaluation."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from tritonclip_server.evaluation.data import LabelledImages
from tritonclip_server.evaluation.predictions import Predictions

MAX_ROWS = 20
"""Maximum number of rows of the printed table; classes.csv has them all."""
MAX_NAMED = 40
"""Maximum number of classes whose names fit on the confusion matrices."""


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy.

    Attributes:
        right: Number of images whose best label is the true one. A rejected image counts as wrong.
        images: Number of all images.
    """

    right: int
    images: int

    @classmethod
    def of(cls, predictions: Predictions, truth: Sequence[int]) -> Accuracy:
        """Compare predictions with the true labels."""
        return cls(int((predictions.best_labels == np.array(truth)).sum()), len(truth))

    @property
    def share(self) -> float:
        """Share of the images that are right, 0 to 1."""
        return self.right / self.images

    def interval(self) -> tuple[float, float]:
        """Return the 95 % confidence interval. Source: Wilson, "Probable inference", 1927, as in scipy."""
        found = binomtest(self.right, self.images).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        """Return percentage, interval and counts on one line."""
        low, high = self.interval()
        return f"{self.share:6.1%}  [{low:.1%}, {high:.1%}]  {self.right} of {self.images}"


@dataclass(frozen=True)
class ClassRow:
    """Number of images of one class, and precision and recall of the server and of transformers, 0 to 1."""

    label: str
    images: int
    precision: float
    recall: float
    reference_precision: float
    reference_recall: float


def class_rows(data: LabelledImages, server: Predictions, reference: Predictions) -> list[ClassRow]:
    """Return one row per class, in the order of the labels. A class never predicted has a precision of 0."""
    (precision, recall, counts), (reference_precision, reference_recall, _) = (
        _by_class(data, predictions) for predictions in (server, reference)
    )
    columns = (precision, recall, reference_precision, reference_recall)
    return [
        ClassRow(label, int(counts[n]), *(float(column[n]) for column in columns))
        for n, label in enumerate(data.labels)
    ]


def write_csv(rows: Sequence[ClassRow], path: Path) -> None:
    """Write one line per class."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("label", "images", "precision", "recall", "reference_precision", "reference_recall"))
        writer.writerows(
            (r.label, r.images, r.precision, r.recall, r.reference_precision, r.reference_recall)
            for r in rows
        )


def table(rows: Sequence[ClassRow]) -> list[str]:
    """Format a table, with the classes of lowest recall if there are more than `MAX_ROWS`."""
    shown = with_images = [row for row in rows if row.images]
    if len(shown) > MAX_ROWS:
        shown = sorted(shown, key=lambda row: row.recall)[:MAX_ROWS]
    width = max(len(row.label) for row in shown) + 2
    head = f"{'class':<{width}}{'n':>6}{'precision':>11}{'recall':>9}   transformers: precision   recall"
    lines = [
        f"{r.label:<{width}}{r.images:>6}{r.precision:>11.1%}{r.recall:>9.1%}"
        f"{r.reference_precision:>26.1%}{r.reference_recall:>9.1%}"
        for r in shown
    ]
    left_out = len(with_images) - len(shown)
    more = [f"... and {left_out} classes of higher recall"] if left_out else []
    return [head, *lines, *more]


def draw_confusion(data: LabelledImages, server: Predictions, reference: Predictions, path: Path) -> None:
    """Write both confusion matrices side by side as a PNG file, one row per true class."""
    from matplotlib.figure import Figure  # imported here because it takes a second

    many = len(data.labels) > MAX_NAMED
    side_inches = 5 if many else max(4.0, 0.35 * len(data.labels) + 2)
    figure = Figure(figsize=(2 * side_inches + 1, side_inches), layout="constrained")
    for axes, name, predictions in zip(
        figure.subplots(1, 2), ("server", "transformers"), (server, reference), strict=True
    ):
        shares = _confusion(data, predictions)
        image = axes.imshow(shares, vmin=0, vmax=1, cmap="viridis")
        axes.set(title=name, xlabel="best label", ylabel="class")
        if not many:
            axes.set_xticks(range(len(data.labels)), data.labels, rotation=90)
            axes.set_yticks(range(len(data.labels)), data.labels)
    figure.colorbar(image, ax=figure.axes, label="share of the class")
    figure.savefig(path, dpi=120)


def _confusion(data: LabelledImages, predictions: Predictions) -> np.ndarray:
    """Return shares [class, best label]; rejected images are in no column."""
    counts = confusion_matrix(data.truth, predictions.best_labels, labels=range(len(data.labels)))
    return np.asarray(counts / np.maximum(np.bincount(data.truth)[:, None], 1))


def _by_class(data: LabelledImages, predictions: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    numbers = range(len(data.labels))
    precision, recall, _, counts = precision_recall_fscore_support(
        data.truth, predictions.best_labels, labels=numbers, zero_division=0
    )
    return precision, recall, counts
