"""Exported towers against transformers: the same numbers, by ONNX Runtime on the CPU, and their speed.

python scripts/onnx_check.py scripts/demo/checkpoint build/onnx/demo --threads 1
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
from transformers import AutoTokenizer, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils.logging import disable_progress_bar

from tritonclip_server.demo.captions import OTHER_TEMPLATES, PLAIN_TEMPLATES
from tritonclip_server.demo.drawing import draw
from tritonclip_server.demo.scenes import PAIRS, sample_shapes
from tritonclip_server.onnx_export.towers import IMAGE_TOWER, TEXT_TOWER

SAMPLES = 200
CHUNK = 25
SEED = 8_000_000
LEAST_COSINE = {"float32": 0.99999, "float16": 0.999}
"""Below it an export is refused."""
ROUNDS = 15

Array = np.ndarray


@dataclass(frozen=True)
class Samples:
    """What both sides are asked, and what transformers says in float32.

    Attributes:
        pixels: float32 [n, 3, h, w].
        tokens: int64 [n, 77 at most], padded on the right.
        image_embeds: float32 [n, dim], unit L2 norm.
        text_embeds: float32 [n, dim], unit L2 norm.
        logit_scale: The multiplier of the cosine.
    """

    pixels: Array
    tokens: Array
    image_embeds: Array
    text_embeds: Array
    logit_scale: float


@dataclass(frozen=True)
class Errors:
    """How far an export is from transformers in float32.

    Attributes:
        image_cosine: The least of any image's two embeddings.
        text_cosine: The least of any text's two embeddings.
        score: The largest difference of a score, each image ranked against all texts.
    """

    image_cosine: float
    text_cosine: float
    score: float

    def __str__(self) -> str:
        """One line."""
        return (
            f"against transformers: least cosine of {SAMPLES} images {self.image_cosine:.7f}, of {SAMPLES} "
            f"texts {self.text_cosine:.7f}, largest error of a score {self.score:.2g}"
        )

    @property
    def least_cosine(self) -> float:
        """Of images and texts."""
        return min(self.image_cosine, self.text_cosine)


def make_samples(model: Any, checkpoint: Path) -> Samples:
    """Draws pictures, writes captions and asks transformers, with the attention mask that it pads by."""
    rng = np.random.default_rng(SEED)
    pictures = [
        draw(sample_shapes(rng, *PAIRS[n % len(PAIRS)], count=1 + n % 3), rng) for n in range(SAMPLES)
    ]
    templates = (*PLAIN_TEMPLATES, *OTHER_TEMPLATES)
    captions = [templates[n % len(templates)].format(" ".join(PAIRS[n // 2])) for n in range(SAMPLES)]
    processor = CLIPImageProcessorPil.from_pretrained(checkpoint)
    pixels = torch.from_numpy(np.stack(processor(images=pictures)["pixel_values"]))
    coded = AutoTokenizer.from_pretrained(checkpoint)(
        captions, padding=True, truncation=True, max_length=77, return_tensors="pt"
    )
    with torch.inference_mode():
        images = torch.cat([model.get_image_features(part).pooler_output for part in pixels.split(CHUNK)])
        texts = model.get_text_features(**coded).pooler_output
        scale = model.logit_scale.exp().item()
    return Samples(pixels.numpy(), coded["input_ids"].numpy(), _unit(images), _unit(texts), scale)


def compare(directory: Path, samples: Samples) -> Errors:
    """Runs an export on the samples, in batches of several sizes, the texts without needless padding too."""
    image, text = open_session(directory / IMAGE_TOWER), open_session(directory / TEXT_TOWER)
    bounds = [0, 1, 3, 10, *range(CHUNK, SAMPLES + 1, CHUNK)]
    parts = list(zip(bounds, bounds[1:], strict=False))
    images = np.concatenate([run(image, samples.pixels[a:b]) for a, b in parts])
    texts = np.concatenate([run(text, _trimmed(samples.tokens[a:b])) for a, b in parts])
    expected = _scores(samples.image_embeds, samples.text_embeds, samples.logit_scale)
    return Errors(
        float((images * samples.image_embeds).sum(1).min()),
        float((texts * samples.text_embeds).sum(1).min()),
        float(np.abs(_scores(images, texts, samples.logit_scale) - expected).max()),
    )


def measure(model: Any, directories: dict[str, Path], samples: Samples) -> list[tuple[str, dict[str, float]]]:
    """Times exports and torch in turns: median milliseconds by tower and batch, then by name."""
    sessions = {
        name: (open_session(path / IMAGE_TOWER), open_session(path / TEXT_TOWER))
        for name, path in directories.items()
    }
    rows = []
    for what, tower, batch in (("images", 0, 1), ("images", 0, 8), ("texts", 1, 10)):
        given = (samples.pixels if tower == 0 else _trimmed(samples.tokens[:batch]))[:batch]
        ask = (model.get_image_features, model.get_text_features)[tower]
        tensor = torch.from_numpy(given)
        calls: dict[str, Callable[[], object]] = {"torch float32": lambda ask=ask, t=tensor: ask(t)}  # type: ignore[misc]
        for name, both in sessions.items():
            calls[f"onnx {name}"] = lambda session=both[tower], g=given: run(session, g)  # type: ignore[misc]
        rows.append((f"{batch} {what}", _in_turns(calls)))
    return rows


def open_session(path: Path) -> Any:
    """A session of ONNX Runtime on the CPU, with as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or idle threads hold up torch's
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(session: Any, given: Array) -> Array:
    """The one output for the one input."""
    return np.asarray(session.run(None, {session.get_inputs()[0].name: given})[0])


@torch.inference_mode()
def _in_turns(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}  # the first warms up


def _trimmed(tokens: Array) -> Array:
    """Without the columns in which every text has the padding that the last column has."""
    pad = np.bincount(tokens[:, -1]).argmax()
    used = np.flatnonzero((tokens != pad).any(axis=0))
    return tokens[:, : used[-1] + 2]  # the end token may be what is padded with


def _scores(images: Array, texts: Array, scale: float) -> Array:
    logits = scale * images.astype(np.float64) @ texts.T.astype(np.float64)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _unit(embeds: torch.Tensor) -> Array:
    return np.asarray(torch.nn.functional.normalize(embeds, dim=-1).numpy())


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("export", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--threads", type=click.IntRange(min=1), default=torch.get_num_threads(), help="Of both; all cores."
)
def main(checkpoint: Path, export: Path, threads: int) -> None:
    """Compare EXPORT with CHECKPOINT on this machine, then time both in turns."""
    torch.set_num_threads(threads)
    disable_progress_bar()
    model = CLIPModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    samples = make_samples(model, checkpoint)
    directories = {name: export / name for name in LEAST_COSINE if (export / name).is_dir()}
    for name, directory in directories.items():
        click.echo(f"{name} {compare(directory, samples)}")
    for what, times in measure(model, directories, samples):
        listed = ", ".join(f"{name} {taken:.1f} ms" for name, taken in times.items())
        click.echo(f"{what}: {listed}; medians of {ROUNDS} in turns, threads: {threads}")


if __name__ == "__main__":
    main()
