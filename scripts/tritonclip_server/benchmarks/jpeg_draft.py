"""The command `tritonclip-server benchmark jpeg-draft`: time and accuracy of reduced JPEG decoding.

The parameter `jpeg_draft` of `image_preprocess` decodes photographs at a fraction of their size. The
benchmark compares image embeddings and scores with those of exact decoding, by transformers in float32. It
starts no server.
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

from tritonclip_server.paths import DEMO_CHECKPOINT, MODEL_REPOSITORY
from tritonclip_server.repository.checkpoint import Checkpoint, read_checkpoint
from tritonclip_server.repository.checkpoint_files import locate
from tritonclip_server.repository.image_settings import TORCHVISION
from tritonclip_server.repository.random_checkpoint import ARCHITECTURES, write_random_checkpoint
from tritonclip_server.repository.reference import Reference
from tritonclip_server.repository.version_code import import_from_versions

LABELS = "cat,dog,car,house,tree,boat,plane,flower,bridge,face".split(",")
SUFFIXES = (".jpg", ".jpeg")
EXACT = 0.0


class DecodedPhotographs(NamedTuple):
    """All photographs, decoded with one value of `jpeg_draft`.

    Attributes:
        seconds: Decoding time of each photograph, the least of all rounds.
        pixels: uint8 [photographs, 3, height, width].
    """

    seconds: list[float]
    pixels: np.ndarray


def photographs(folder: Path | None) -> list[bytes]:
    """Read the JPEG files below a folder, or enlarge scikit-learn's two photographs to 12 megapixels."""
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


def decode(
    files: Sequence[bytes], processor: dict[str, Any], ratio: float, rounds: int
) -> DecodedPhotographs:
    """Decode, resize and crop each file as the model does, on one thread."""
    code = MODEL_REPOSITORY / "image_preprocess" / "1"
    images = import_from_versions("clip_images", code, MODEL_REPOSITORY)
    geometry = import_from_versions("clip_geometry", code, MODEL_REPOSITORY)
    settings = geometry.ProcessorSettings.from_dict({**processor, "image_processor": TORCHVISION})
    decoder = images.ImageDecoder(settings, ("JPEG",), 1 << 30, ratio)
    torch.set_num_threads(1)
    seconds, pixels = [], []
    for file in files:
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            image = decoder.decode(file)
            times.append(time.perf_counter() - start)
        seconds.append(min(times))
        pixels.append(image)
    return DecodedPhotographs(seconds, np.stack(pixels))


class ImageScorer:
    """Image embeddings and scores of a checkpoint in float32, for decoded pixels."""

    def __init__(self, directory: Path, checkpoint: Checkpoint) -> None:
        self._reference = Reference(directory)
        vision = checkpoint.vision
        self._mean, self._std = (
            torch.tensor(vision[key])[:, None, None] for key in ("image_mean", "image_std")
        )
        self._rescale, self._scale = vision["rescale_factor"], checkpoint.logit_scale
        texts = [f"This is a photo of {label}." for label in LABELS]
        self._texts = torch.from_numpy(self._reference.embed_texts(texts))

    def embed(self, pixels: np.ndarray) -> torch.Tensor:
        """Embed uint8 [n, 3, height, width] -> float32 [n, dim], unit L2 norm."""
        values = (torch.from_numpy(pixels).float() * self._rescale - self._mean) / self._std
        return torch.from_numpy(self._reference.embed_pixels(values, chunk=8))

    def scores(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Rank the labels for float32 [n, dim] -> float32 [n, labels], a softmax per image."""
        return (self._scale * embeddings @ self._texts.T).softmax(dim=-1)


@click.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@click.option("--checkpoint", default=str(DEMO_CHECKPOINT), show_default="demo", help="Checkpoint to use.")
@click.option(
    "--random",
    type=click.Choice(list(ARCHITECTURES)),
    help="Use full-size random weights instead of a checkpoint.",
)
@click.option(
    "--ratios", default="1,2,3,4", show_default=True, help="Values of jpeg_draft, separated by commas."
)
@click.option(
    "--rounds", default=3, show_default=True, help="Decoding runs per photograph; the fastest counts."
)
def main(photos: Path | None, checkpoint: str, random: str | None, ratios: str, rounds: int) -> None:
    """Compare values of jpeg_draft on the JPEG files below PHOTOS, a folder.

    Without PHOTOS, the two photographs of scikit-learn are used at 12 megapixels.
    """
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
        scorer = ImageScorer(located.directory, read)
    values = [EXACT, *map(float, ratios.split(","))]
    decoded = {
        value: decode(files, read.processor, value, rounds)
        for value in track(values, console=Console(stderr=True), transient=True)
    }
    console.print(f"{len(files)} photographs of {_megapixels(files)}; {random or checkpoint}")
    console.print(_table(decoded, scorer))


def _megapixels(files: Sequence[bytes]) -> str:
    sizes = [Image.open(io.BytesIO(file)).size for file in files]
    counts = sorted(width * height / 1e6 for width, height in sizes)
    return f"{counts[0]:.1f} to {counts[-1]:.1f} megapixels, median {statistics.median(counts):.1f}"


def _table(decoded: dict[float, DecodedPhotographs], scorer: ImageScorer) -> Table:
    table = Table(
        "jpeg_draft", "photos changed", "ms/image", "least cosine", "median cosine", "largest score change"
    )
    exact = decoded[EXACT]
    embeddings = scorer.embed(exact.pixels)
    for value, photos in decoded.items():
        changed = (photos.pixels != exact.pixels).any(axis=(1, 2, 3))
        row = [f"{value:g}", str(changed.sum()), f"{statistics.fmean(photos.seconds) * 1e3:.1f}"]
        if changed.any():
            found = scorer.embed(photos.pixels)
            cosines = (found * embeddings).sum(dim=-1)[torch.from_numpy(changed)]
            score_change = (scorer.scores(found) - scorer.scores(embeddings)).abs().max()
            row += [f"{cosines.min():.5f}", f"{cosines.median():.5f}", f"{score_change:.4f}"]
        table.add_row(*row)
    return table


if __name__ == "__main__":
    main()
