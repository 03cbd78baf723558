"""Zero-shot tasks on pictures that no training saw, and the accuracy of a checkpoint on them.

The checkpoint is loaded through transformers as any other and runs in float32. Training never meets the
pictures: the generator starts elsewhere, the held-out pairs never occur in it, the digits are the other half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

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

SEED = 7_000_000  # training starts from another
CHUNK = 64
DEFAULT_TEMPLATE = "This is a photo of {}."  # of transformers' pipeline
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
    """Pictures, the index of each one's true label, the labels, and the templates to put them in."""

    name: str
    pictures: list[Image.Image]
    truth: list[int]
    labels: list[str]
    templates: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """Top-1 accuracy (0..1) of one task under one hypothesis template."""

    task: str
    template: str
    labels: int
    pictures: int
    accuracy: float


def load(checkpoint: Path) -> tuple[CLIPModel, CLIPProcessor]:
    """The model in float32, ready to infer, and its processor."""
    return CLIPModel.from_pretrained(checkpoint, dtype=torch.float32).eval(), CLIPProcessor.from_pretrained(
        checkpoint
    )


@torch.inference_mode()
def rank(
    model: CLIPModel, processor: CLIPProcessor, pictures: Iterable[Image.Image], sentences: list[str]
) -> np.ndarray:
    """Logits of every picture for every sentence: float32 [pictures, sentences]."""
    tokens = processor(text=sentences, padding=True, truncation=True, return_tensors="pt")
    pictures = list(pictures)
    parts = []
    for first in range(0, len(pictures), CHUNK):
        pixels = processor(images=pictures[first : first + CHUNK], return_tensors="pt")
        parts.append(model(**tokens, **pixels).logits_per_image.numpy())
    return np.concatenate(parts)


def draw_pairs(pairs: Iterable[Pair], per_pair: int, seed: int) -> tuple[list[Image.Image], list[Pair]]:
    """Fresh pictures of one object each, in every size, position, background and noise of the training."""
    rng = np.random.default_rng(seed)
    truth = [pair for pair in sorted(pairs) for _ in range(per_pair)]
    return [draw(sample_shapes(rng, *pair, count=1), rng) for pair in truth], truth


def pair_task(name: str, pairs: Iterable[Pair], per_pair: int, seed: int) -> Task:
    """Colour x shape pairs, to be told from all the 100 pairs."""
    pictures, truth = draw_pairs(pairs, per_pair, seed)
    labels = [" ".join(pair) for pair in PAIRS]
    return Task(name, pictures, [PAIRS.index(pair) for pair in truth], labels, OBJECT_TEMPLATES)


def digit_task(name: str, render: Callable[[int], Image.Image], labels: Iterable[str] = DIGITS) -> Task:
    """Every digit of the test half, to be told from the ten."""
    rows = digit_rows("test")
    truth = load_glyphs()[1][rows].tolist()
    return Task(name, [render(int(row)) for row in rows], truth, list(labels), DIGIT_TEMPLATES)


def count_task(name: str, per_count: int, seed: int) -> Task:
    """One to four equal shapes of any pair, of which only the number is asked."""
    rng = np.random.default_rng(seed)
    counts = [n for n in range(1, MAX_COUNT + 1) for _ in range(per_count)]
    scenes = [sample_shapes(rng, *PAIRS[rng.integers(len(PAIRS))], count=n) for n in counts]
    labels = ["one shape", *(f"{DIGITS[n]} shapes" for n in range(2, MAX_COUNT + 1))]
    return Task(name, [draw(scene, rng) for scene in scenes], [n - 1 for n in counts], labels, WORD_TEMPLATES)


def tasks(per_pair: int, seed: int) -> list[Task]:
    """All tasks, each with its own pictures."""
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


def evaluate(checkpoint: Path, per_pair: int, seed: int = SEED) -> list[Result]:
    """Runs every task under each of its templates."""
    model, processor = load(checkpoint)
    return [result for task in tasks(per_pair, seed) for result in run_task(model, processor, task)]


def run_task(model: CLIPModel, processor: CLIPProcessor, task: Task) -> list[Result]:
    """One result for every template; the pictures are encoded once."""
    sentences = [template.format(label) for template in task.templates for label in task.labels]
    logits = rank(model, processor, task.pictures, sentences)
    guesses = logits.reshape(len(task.pictures), len(task.templates), len(task.labels)).argmax(2)
    accuracy = (guesses == np.array(task.truth)[:, None]).mean(0)
    shape = len(task.labels), len(task.pictures)
    return [Result(task.name, t, *shape, float(a)) for t, a in zip(task.templates, accuracy, strict=True)]
