"""Comparison of exported towers with transformers: accuracy and speed of ONNX Runtime on the CPU.

It is also the command `tritonclip-server benchmark onnx`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
import torch

from tritonclip_server.demo.captions import OTHER_TEMPLATES, PLAIN_TEMPLATES
from tritonclip_server.demo.drawing import draw
from tritonclip_server.demo.scenes import PAIRS, sample_shapes
from tritonclip_server.onnx_export.towers import IMAGE_TOWER, TEXT_TOWER
from tritonclip_server.repository.image_settings import PILLOW
from tritonclip_server.repository.reference import Reference

SAMPLES = 200
CHUNK = 25
SEED = 8_000_000
LEAST_COSINE = {"float32": 0.99999, "float16": 0.999}
"""Limit below which an export is rejected."""
ROUNDS = 15

Array = np.ndarray


@dataclass(frozen=True)
class ReferenceSamples:
    """Inputs of the comparison, and the embeddings of transformers in float32.

    Attributes:
        pixels: float32 [n, 3, h, w].
        tokens: int64 [n, up to 77], padded on the right.
        image_embeds: float32 [n, dim], unit L2 norm.
        text_embeds: float32 [n, dim], unit L2 norm.
        logit_scale: Multiplier of the cosines.
    """

    pixels: Array
    tokens: Array
    image_embeds: Array
    text_embeds: Array
    logit_scale: float


@dataclass(frozen=True)
class Deviation:
    """Deviation of an export from transformers in float32.

    Attributes:
        image_cosine: Least cosine between the two embeddings of an image.
        text_cosine: Least cosine between the two embeddings of a text.
        score: Largest difference of a score, with each image ranked against all texts.
    """

    image_cosine: float
    text_cosine: float
    score: float

    def __str__(self) -> str:
        """Return a summary on one line."""
        return (
            f"against transformers: least cosine of {SAMPLES} images {self.image_cosine:.7f}, of {SAMPLES} "
            f"texts {self.text_cosine:.7f}, largest error of a score {self.score:.2g}"
        )

    @property
    def least_cosine(self) -> float:
        """Least cosine of images and texts."""
        return min(self.image_cosine, self.text_cosine)


def make_samples(reference: Reference) -> ReferenceSamples:
    """Draw pictures, write captions, and embed both with transformers."""
    rng = np.random.default_rng(SEED)
    pictures = [
        draw(sample_shapes(rng, *PAIRS[n % len(PAIRS)], count=1 + n % 3), rng) for n in range(SAMPLES)
    ]
    templates = (*PLAIN_TEMPLATES, *OTHER_TEMPLATES)
    captions = [templates[n % len(templates)].format(" ".join(PAIRS[n // 2])) for n in range(SAMPLES)]
    pixels = reference.pixel_values(pictures)
    return ReferenceSamples(
        pixels.numpy(),
        reference.tokenize(captions)["input_ids"].numpy(),
        reference.embed_pixels(pixels, CHUNK),
        reference.embed_texts(captions, SAMPLES),
        reference.logit_scale,
    )


def compare(directory: Path, samples: ReferenceSamples) -> Deviation:
    """Run an export on the samples, in batches of several sizes and with padding trimmed from the texts."""
    image, text = open_session(directory / IMAGE_TOWER), open_session(directory / TEXT_TOWER)
    bounds = [0, 1, 3, 10, *range(CHUNK, SAMPLES + 1, CHUNK)]
    parts = list(zip(bounds, bounds[1:], strict=False))
    images = np.concatenate([run_session(image, samples.pixels[a:b]) for a, b in parts])
    texts = np.concatenate([run_session(text, _trimmed(samples.tokens[a:b])) for a, b in parts])
    expected = _scores(samples.image_embeds, samples.text_embeds, samples.logit_scale)
    return Deviation(
        float((images * samples.image_embeds).sum(1).min()),
        float((texts * samples.text_embeds).sum(1).min()),
        float(np.abs(_scores(images, texts, samples.logit_scale) - expected).max()),
    )


def measure(
    model: Any, directories: dict[str, Path], samples: ReferenceSamples
) -> list[tuple[str, dict[str, float]]]:
    """Time exports and torch in an interleaved run: median milliseconds by tower and batch, then by name."""
    sessions = {
        name: (open_session(path / IMAGE_TOWER), open_session(path / TEXT_TOWER))
        for name, path in directories.items()
    }
    rows = []
    for name_of_inputs, tower, batch in (("images", 0, 1), ("images", 0, 8), ("texts", 1, 10)):
        inputs = (samples.pixels if tower == 0 else _trimmed(samples.tokens[:batch]))[:batch]
        embed = (model.get_image_features, model.get_text_features)[tower]
        tensor = torch.from_numpy(inputs)
        calls: dict[str, Callable[[], object]] = {"torch float32": lambda embed=embed, t=tensor: embed(t)}  # type: ignore[misc]
        for name, both in sessions.items():
            calls[f"onnx {name}"] = lambda session=both[tower], given=inputs: run_session(session, given)  # type: ignore[misc]
        rows.append((f"{batch} {name_of_inputs}", _interleaved_medians_ms(calls)))
    return rows


def open_session(path: Path) -> Any:
    """Open a session of ONNX Runtime on the CPU, with as many threads as torch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry(
        "session.force_spinning_stop", "1"
    )  # otherwise idle threads slow torch down
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_session(session: Any, given: Array) -> Array:
    """Run a tower: its only input to its only output."""
    return np.asarray(session.run(None, {session.get_inputs()[0].name: given})[0])


@torch.inference_mode()
def _interleaved_medians_ms(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    return {
        name: statistics.median(taken[1:]) for name, taken in times.items()
    }  # the first round is a warm-up


def _trimmed(tokens: Array) -> Array:
    """Remove the trailing columns that are padding in every text."""
    pad = np.bincount(tokens[:, -1]).argmax()
    used = np.flatnonzero((tokens != pad).any(axis=0))
    return tokens[:, : used[-1] + 2]  # keeps one column, because the end token may be the padding token


def _scores(images: Array, texts: Array, scale: float) -> Array:
    logits = scale * images.astype(np.float64) @ texts.T.astype(np.float64)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("export", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=torch.get_num_threads(),
    show_default="all cores",
    help="Threads of torch and of ONNX Runtime.",
)
def main(checkpoint: Path, export: Path, threads: int) -> None:
    """Compare EXPORT, a folder from export-onnx, with CHECKPOINT, a directory; then time both in turns."""
    torch.set_num_threads(threads)
    reference = Reference(checkpoint, image_processor=PILLOW)
    samples = make_samples(reference)
    directories = {name: export / name for name in LEAST_COSINE if (export / name).is_dir()}
    for name, directory in directories.items():
        click.echo(f"{name} {compare(directory, samples)}")
    for inputs, times in measure(reference.model, directories, samples):
        listed = ", ".join(f"{name} {taken:.1f} ms" for name, taken in times.items())
        click.echo(f"{inputs}: {listed}; medians of {ROUNDS} interleaved rounds, threads: {threads}")


if __name__ == "__main__":
    main()
