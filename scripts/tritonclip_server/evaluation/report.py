"""Figures, tables and the picture of `evaluate.py`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from tritonclip_server.evaluation.data import LabelledImages
from tritonclip_server.evaluation.sides import Side

MAX_ROWS = 20
"""Of the table on the screen; the file has all."""
MAX_NAMED = 40
"""Classes whose names a picture has room for."""


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy of one side.

    Attributes:
        right: Images whose best label is the true one; an image that was refused is wrong.
        images: All of them.
    """

    right: int
    images: int

    @classmethod
    def of(cls, side: Side, truth: Sequence[int]) -> Accuracy:
        """Counts."""
        return cls(int((side.guesses == np.array(truth)).sum()), len(truth))

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.right / self.images

    def interval(self) -> tuple[float, float]:
        """Of 95 % confidence. Source: Wilson, "Probable inference", 1927, as scipy has it."""
        found = binomtest(self.right, self.images).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "right": self.right,
            "images": self.images,
            "accuracy": self.share,
            "interval": self.interval(),
        }

    def __str__(self) -> str:
        """Per cent, interval, counts."""
        low, high = self.interval()
        return f"{self.share:6.1%}  [{low:.1%}, {high:.1%}]  {self.right} of {self.images}"


@dataclass(frozen=True)
class ClassRow:
    """One class: its images, and precision and recall of the server and of transformers, 0 to 1."""

    label: str
    images: int
    precision: float
    recall: float
    reference_precision: float
    reference_recall: float


def class_rows(data: LabelledImages, server: Side, reference: Side) -> list[ClassRow]:
    """One row a class, in the order of the labels; a class that is never guessed has a precision of 0."""
    (precision, recall, counts), (precision_, recall_, _) = (
        _by_class(data, side) for side in (server, reference)
    )
    return [
        ClassRow(label, int(counts[n]), *(float(v[n]) for v in (precision, recall, precision_, recall_)))
        for n, label in enumerate(data.labels)
    ]


def write_csv(rows: Sequence[ClassRow], path: Path) -> None:
    """One line a class."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("label", "images", "precision", "recall", "reference_precision", "reference_recall"))
        writer.writerows(
            (r.label, r.images, r.precision, r.recall, r.reference_precision, r.reference_recall)
            for r in rows
        )


def table(rows: Sequence[ClassRow]) -> list[str]:
    """Lines for the screen: the classes of least recall where there are too many."""
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


def draw_confusion(data: LabelledImages, server: Side, reference: Side, path: Path) -> None:
    """Both confusion matrices beside each other, each row a class's images, as a PNG file."""
    from matplotlib.figure import Figure  # takes a second

    many = len(data.labels) > MAX_NAMED
    side_inches = 5 if many else max(4.0, 0.35 * len(data.labels) + 2)
    figure = Figure(figsize=(2 * side_inches + 1, side_inches), layout="constrained")
    for axes, name, side in zip(
        figure.subplots(1, 2), ("server", "transformers"), (server, reference), strict=True
    ):
        shares = _confusion(data, side)
        image = axes.imshow(shares, vmin=0, vmax=1, cmap="viridis")
        axes.set(title=name, xlabel="best label", ylabel="class")
        if not many:
            axes.set_xticks(range(len(data.labels)), data.labels, rotation=90)
            axes.set_yticks(range(len(data.labels)), data.labels)
    figure.colorbar(image, ax=figure.axes, label="share of the class")
    figure.savefig(path, dpi=120)


def _confusion(data: LabelledImages, side: Side) -> np.ndarray:
    """Shares [class, guess]; what was refused is in no column."""
    counts = confusion_matrix(data.truth, side.guesses, labels=range(len(data.labels)))
    return np.asarray(counts / np.maximum(np.bincount(data.truth)[:, None], 1))


def _by_class(data: LabelledImages, side: Side) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    numbers = range(len(data.labels))
    precision, recall, _, counts = precision_recall_fscore_support(
        data.truth, side.guesses, labels=numbers, zero_division=0
    )
    return precision, recall, counts
