"""Measures what `image_preprocess`'s parameter `jpeg_draft` saves and what it changes, by its value.

The image embeddings of photographs decoded at a part of their size are compared with those of the exact path,
in float32 and by transformers: no server is started.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_sample_images
from transformers import AutoTokenizer, CLIPModel

from tritonclip_server.paths import MODEL_REPOSITORY
from tritonclip_server.repository.checkpoint import Checkpoint, locate, read_checkpoint
from tritonclip_server.repository.random_checkpoint import ARCHITECTURES, write_random_checkpoint
from tritonclip_server.repository.version_code import import_from_versions

LABELS = "cat,dog,car,house,tree,boat,plane,flower,bridge,face".split(",")
SUFFIXES = (".jpg", ".jpeg")
EXACT = 0.0


class Run(NamedTuple):
    """All photographs at one ratio."""

    seconds: list[float]
    """Of each photograph, the least of all rounds."""
    pixels: np.ndarray
    """uint8 [photographs, 3, height, width]."""


def photographs(folder: Path | None) -> list[bytes]:
    """The JPEG files below a folder; without one, scikit-learn's two photographs at 12 megapixels."""
    if folder is not None:
        found = sorted(
            path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
        )
        return [path.read_bytes() for path in found]
    files = []
    for array in load_sample_images().images:
        file = io.BytesIO()
        Image.fromarray(array).resize((4240, 2828), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def decode(files: Sequence[bytes], processor: dict[str, Any], ratio: float, rounds: int) -> Run:
    """Decodes, resizes and crops each file as the model does, one after the other, on one thread."""
    code = MODEL_REPOSITORY / "image_preprocess" / "1"
    images = import_from_versions("clip_images", code, MODEL_REPOSITORY)
    geometry = import_from_versions("clip_geometry", code, MODEL_REPOSITORY)
    settings = geometry.ProcessorSettings.from_dict(processor)
    decoder = images.ImageDecoder(settings, ("JPEG",), 1 << 30, ratio)
    seconds, pixels = [], []
    for file in files:
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            decoded = decoder.decode(file)
            times.append(time.perf_counter() - start)
        seconds.append(min(times))
        pixels.append(decoded)
    return Run(seconds, np.stack(pixels))


class Judge:
    """A checkpoint's image embeddings and scores, in float32."""

    def __init__(self, directory: Path, checkpoint: Checkpoint) -> None:
        self._model = CLIPModel.from_pretrained(directory, dtype=torch.float32).eval()
        vision = checkpoint.vision
        self._mean, self._std = (
            torch.tensor(vision[key])[:, None, None] for key in ("image_mean", "image_std")
        )
        self._rescale, self._scale = vision["rescale_factor"], checkpoint.logit_scale
        texts = [f"This is a photo of {label}." for label in LABELS]
        tokens = AutoTokenizer.from_pretrained(directory)(texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            self._texts = _unit(self._model.get_text_features(**tokens).pooler_output)

    @torch.inference_mode()
    def embed(self, pixels: np.ndarray) -> torch.Tensor:
        """Embeds uint8 [n, 3, height, width] -> float32 [n, dim], unit L2 norm."""
        values = (torch.from_numpy(pixels).float() * self._rescale - self._mean) / self._std
        parts = [self._model.get_image_features(pixel_values=part).pooler_output for part in values.split(8)]
        return _unit(torch.cat(parts))

    def scores(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Ranks [n, dim] against the labels -> [n, labels], a softmax each."""
        return (self._scale * embeddings @ self._texts.T).softmax(dim=-1)


def _unit(values: torch.Tensor) -> torch.Tensor:
    return values / values.norm(dim=-1, keepdim=True)


@click.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@click.option("--checkpoint", default="scripts/demo/checkpoint", show_default=True)
@click.option("--random", type=click.Choice(list(ARCHITECTURES)), help="Random full-size weights instead.")
@click.option("--ratios", default="1,2,3,4", show_default=True, help="Values of jpeg_draft.")
@click.option("--rounds", default=3, show_default=True, help="Times that each is decoded; the least counts.")
def main(photos: Path | None, checkpoint: str, random: str | None, ratios: str, rounds: int) -> None:
    """Compares jpeg_draft's values on the JPEG files below PHOTOS."""
    console = Console(highlight=False, soft_wrap=True)
    files = photographs(photos)
    if not files:
        raise click.ClickException(f"no JPEG file below {photos}")
    with tempfile.TemporaryDirectory() as scratch:
        if random is not None:
            checkpoint = scratch
            write_random_checkpoint(random, Path(scratch))
        located = locate(checkpoint)
        read = read_checkpoint(located)
        judge = Judge(located.directory, read)
    values = [EXACT, *map(float, ratios.split(","))]
    runs = {
        value: decode(files, read.processor, value, rounds)
        for value in track(values, console=Console(stderr=True), transient=True)
    }
    console.print(f"{len(files)} photographs of {_megapixels(files)}; {random or checkpoint}")
    console.print(_table(runs, judge))


def _megapixels(files: Sequence[bytes]) -> str:
    sizes = [Image.open(io.BytesIO(file)).size for file in files]
    counts = sorted(width * height / 1e6 for width, height in sizes)
    return f"{counts[0]:.1f} to {counts[-1]:.1f} megapixels, median {statistics.median(counts):.1f}"


def _table(runs: dict[float, Run], judge: Judge) -> Table:
    table = Table(
        "jpeg_draft", "photos changed", "ms/image", "least cosine", "median cosine", "largest score change"
    )
    exact = runs[EXACT]
    embeddings = judge.embed(exact.pixels)
    for value, run in runs.items():
        changed = (run.pixels != exact.pixels).any(axis=(1, 2, 3))
        row = [f"{value:g}", str(changed.sum()), f"{statistics.fmean(run.seconds) * 1e3:.1f}"]
        if changed.any():
            found = judge.embed(run.pixels)
            cosines = (found * embeddings).sum(dim=-1)[torch.from_numpy(changed)]
            score_change = (judge.scores(found) - judge.scores(embeddings)).abs().max()
            row += [f"{cosines.min():.5f}", f"{cosines.median():.5f}", f"{score_change:.4f}"]
        table.add_row(*row)
    return table


if __name__ == "__main__":
    main()
