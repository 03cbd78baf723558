"""Zero-shot tasks on pictures that training never saw, and the accuracy of a checkpoint on them.

transformers loads the checkpoint and computes in float32. The pictures differ from those of training: the
random seed is another one, held-out pairs never occur in training, and the digits are the other half.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from tritonclip_server.demo.drawing import draw, draw_plain_digit
from tritonclip_server.demo.scenes import (
    COLOURS,
    DIGITS,
    HELD_OUT,
    MAX_COUNT,
    PAIRS,
    SEEN,
    SHAPES,
    digit_rows,
    load_glyphs,
    sample_digit,
    sample_shapes,
)
from tritonclip_server.repository.reference import CHUNK, Reference

SEED = 7_000_000  # training uses another seed
THREADS = 2
DEFAULT_TEMPLATE = "This is a photo of {}."  # the default of transformers' pipeline
OBJECT_TEMPLATES = (DEFAULT_TEMPLATE, "This is a photo of a {}.", "a photo of a {}", "{}")
WORD_TEMPLATES = (DEFAULT_TEMPLATE, "a photo of {}", "{}")
DIGIT_TEMPLATES = (
    DEFAULT_TEMPLATE,
    "This is a photo of the digit {}.",
    "a photo of the digit {}",
    "a handwritten {}",
)
Pair = tuple[str, str]


@dataclass(frozen=True)
class Task:
    """Pictures, the index of the true label of each, the candidate labels, and the templates for them."""

    name: str
    pictures: list[Image.Image]
    truth: list[int]
    labels: list[str]
    templates: tuple[str, ...]


@dataclass(frozen=True)
class TaskAccuracy:
    """Top-1 accuracy (0 to 1) of one task with one hypothesis template."""

    task: str
    template: str
    labels: int
    pictures: int
    accuracy: float


def logits(reference: Reference, pictures: Iterable[Image.Image], sentences: list[str]) -> np.ndarray:
    """Return the logits of every picture for every sentence: float32 [pictures, sentences]."""
    pictures = list(pictures)
    chunks = (pictures[first : first + CHUNK] for first in range(0, len(pictures), CHUNK))
    return np.concatenate(
        [reference.forward(reference.pixel_values(chunk), sentences).logits for chunk in chunks]
    )


def draw_pairs(pairs: Iterable[Pair], per_pair: int, seed: int) -> tuple[list[Image.Image], list[Pair]]:
    """Draw new pictures of one object each, with sizes, positions, backgrounds and noise as in training."""
    rng = np.random.default_rng(seed)
    truth = [pair for pair in sorted(pairs) for _ in range(per_pair)]
    return [draw(sample_shapes(rng, *pair, count=1), rng) for pair in truth], truth


def pair_task(name: str, pairs: Iterable[Pair], per_pair: int, seed: int) -> Task:
    """Draw pairs of colour and shape, to be recognised among all 100 pairs."""
    pictures, truth = draw_pairs(pairs, per_pair, seed)
    labels = [" ".join(pair) for pair in PAIRS]
    return Task(name, pictures, [PAIRS.index(pair) for pair in truth], labels, OBJECT_TEMPLATES)


def digit_task(name: str, render: Callable[[int], Image.Image], labels: Iterable[str] = DIGITS) -> Task:
    """Draw every digit of the test half, to be recognised among the ten."""
    rows = digit_rows("test")
    truth = load_glyphs()[1][rows].tolist()
    return Task(name, [render(int(row)) for row in rows], truth, list(labels), DIGIT_TEMPLATES)


def count_task(name: str, per_count: int, seed: int) -> Task:
    """Draw one to four equal shapes of any pair, to recognise their number only."""
    rng = np.random.default_rng(seed)
    counts = [n for n in range(1, MAX_COUNT + 1) for _ in range(per_count)]
    scenes = [sample_shapes(rng, *PAIRS[rng.integers(len(PAIRS))], count=n) for n in counts]
    labels = ["one shape", *(f"{DIGITS[n]} shapes" for n in range(2, MAX_COUNT + 1))]
    return Task(name, [draw(scene, rng) for scene in scenes], [n - 1 for n in counts], labels, WORD_TEMPLATES)


def tasks(per_pair: int, seed: int) -> list[Task]:
    """Draw the pictures of all tasks."""
    rng = np.random.default_rng((seed, 1))
    pictures, truth = draw_pairs(PAIRS, max(1, per_pair // 5), seed + 1)
    return [
        pair_task("held-out pairs", HELD_OUT, per_pair, seed + 2),
        pair_task("pairs seen in training", SEEN, max(1, per_pair // 4), seed + 3),
        Task(
            "colour alone",
            pictures,
            [list(COLOURS).index(c) for c, _ in truth],
            list(COLOURS),
            WORD_TEMPLATES,
        ),
        Task("shape alone", pictures, [SHAPES.index(s) for _, s in truth], list(SHAPES), OBJECT_TEMPLATES),
        count_task("counts", 10 * per_pair, seed + 4),
        digit_task("held-out digits, enlarged", draw_plain_digit),
        digit_task("the same, as numerals", draw_plain_digit, "0123456789"),
        digit_task("held-out digits, drawn", lambda row: draw(sample_digit(rng, row), rng)),
    ]


def evaluate(checkpoint: Path, per_pair: int, seed: int = SEED) -> list[TaskAccuracy]:
    """Run every task with each of its templates."""
    reference = Reference(checkpoint)
    return [accuracy for task in tasks(per_pair, seed) for accuracy in run_task(reference, task)]


def run_task(reference: Reference, task: Task) -> list[TaskAccuracy]:
    """Return one accuracy per template; the pictures are encoded once."""
    sentences = [template.format(label) for template in task.templates for label in task.labels]
    shape = len(task.pictures), len(task.templates), len(task.labels)
    best = logits(reference, task.pictures, sentences).reshape(shape).argmax(2)
    accuracies = (best == np.array(task.truth)[:, None]).mean(0)
    return [
        TaskAccuracy(task.name, template, len(task.labels), len(task.pictures), float(accuracy))
        for template, accuracy in zip(task.templates, accuracies, strict=True)
    ]


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--per-pair", default=50, show_default=True, help="Pictures per held-out pair.")
@click.option("--seed", default=SEED, show_default=True, help="Seed of the drawn pictures.")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write a JSON file."
)
def main(checkpoint: Path, per_pair: int, seed: int, json_file: Path | None) -> None:
    """Print the zero-shot top-1 accuracy of CHECKPOINT on pictures that it never saw."""
    torch.set_num_threads(THREADS)
    results = evaluate(checkpoint, per_pair, seed)
    click.echo(f"{'task':<28}{'template':<36}{'labels':>7}{'pictures':>10}{'top-1':>9}")
    for r in results:
        click.echo(f"{r.task:<28}{r.template:<36}{r.labels:>7}{r.pictures:>10}{r.accuracy:>9.1%}")
    if json_file:
        report = {"checkpoint": checkpoint.name, "seed": seed, "results": [asdict(r) for r in results]}
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
