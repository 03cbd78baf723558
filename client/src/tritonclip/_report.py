"""What the command prints for people: tables by rich."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tritonclip._types import Health, Prediction


def predictions(images: Sequence[str], ranked: Sequence[Sequence[Prediction]], elapsed_ms: float) -> None:
    """One table an image, a bar for each score, and the time that the call took."""
    console = Console()
    for image, row in zip(images, ranked, strict=True):
        console.print(Text(image), soft_wrap=True)
        table = Table(box=None, padding=(0, 1))
        for header in ("label", "score", ""):
            table.add_column(header, justify="right" if header == "score" else "left")
        for item in row:
            bar = ProgressBar(total=1.0, completed=item["score"], width=30)
            table.add_row(Text(item["label"]), f"{item['score']:.4f}", bar)
        console.print(table)
    console.print(f"{_count(len(images), 'image')} in {elapsed_ms:.1f} ms", highlight=False)


def embeddings(
    items: Sequence[str], vectors: npt.NDArray[np.float32], elapsed_ms: float, output: Path | None
) -> None:
    """The first values of each vector [n, d], and the time that the call took."""
    console = Console()
    table = Table(box=None, padding=(0, 1))
    table.add_column("input")
    table.add_column(f"first of {vectors.shape[1]} values")
    for item, vector in zip(items, vectors, strict=True):
        table.add_row(Text(item), " ".join(f"{value:+.4f}" for value in vector[:6]))
    console.print(table)
    console.print(f"{_count(len(items), 'input')} in {elapsed_ms:.1f} ms", highlight=False)
    if output is not None:
        console.print(Text(f"wrote float32 {list(vectors.shape)} to {output}"))


def health(endpoint: str, state: Health) -> None:
    """One line for the server, its readiness, and each model."""
    console = Console()
    console.print(Text(endpoint), soft_wrap=True)
    table = Table(box=None, show_header=False, padding=(0, 1))
    for name, good in {"live": state.live, "ready": state.ready, **state.models}.items():
        table.add_row(Text(name), Text("yes" if good else "NO", style="green" if good else "bold red"))
    console.print(table)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
