"""Workload: seeded streams of requests, one for each user. Pure."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .settings import LoadSettings

T = TypeVar("T")

SIZES = ("", "small ", "large ", "tiny ", "huge ", "blurred ", "striped ", "shiny ")
COLOURS = [
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
    "grey",
    "turquoise",
]
SHAPES = ["circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond", "arrow", "crescent"]
VOCABULARY = tuple(f"a {size}{colour} {shape}" for size in SIZES for colour in COLOURS for shape in SHAPES)

LABELS_PER_SET = (2, 20)
TEXTS_PER_REQUEST = (1, 8)
SEVERAL_IMAGES = (2, 4)
SEVERAL_SHARE = 0.1
"""Share of requests with several images."""

TRUNCATED, NOT_AN_IMAGE, EMPTY_TEXT = "truncated image", "not an image", "empty text"
FAULTS = {
    "classify": (TRUNCATED, NOT_AN_IMAGE, EMPTY_TEXT),
    "embed_images": (TRUNCATED, NOT_AN_IMAGE),
    "embed_texts": (EMPTY_TEXT,),
}


@dataclass(frozen=True)
class Fault:
    """Deliberate error in a request.

    Attributes:
        what: One of `FAULTS`.
        index: Index of the invalid image or text in the request.
    """

    what: str
    index: int


@dataclass(frozen=True)
class Job:
    """One request.

    Attributes:
        kind: `classify`, `embed_images` or `embed_texts`.
        images: Numbers of the pictures.
        texts: Labels of a `classify`, texts of an `embed_texts`.
        fault: Deliberate error; None for a valid request.
    """

    kind: str
    images: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    fault: Fault | None = None


def zipf_weights(count: int, exponent: float) -> list[float]:
    """Return cumulative weights of ranks 1 to `count`, each 1 / rank ** exponent.

    Source: Zipf, "Human Behavior and the Principle of Least Effort", 1949.
    """
    return list(itertools.accumulate(rank**-exponent for rank in range(1, count + 1)))


def draw_distinct(
    rng: random.Random, values: Sequence[T], weights: Sequence[float], count: int
) -> tuple[T, ...]:
    """Draw distinct values by cumulative weights; at most as many as there are."""
    drawn: dict[T, None] = {}
    while len(drawn) < min(count, len(values)):
        drawn[rng.choices(values, cum_weights=weights)[0]] = None
    return tuple(drawn)


class Workload:
    """Label sets, drawn once, and streams of jobs.

    Args:
        settings: Seed, mix, Zipf exponent, shares and counts.
    """

    def __init__(self, settings: LoadSettings) -> None:
        self._settings = settings
        self._kinds = [kind for kind, _ in settings.mix]
        self._kind_weights = [weight for _, weight in settings.mix]
        self._text_weights = zipf_weights(len(VOCABULARY), settings.zipf)
        self._set_weights = zipf_weights(settings.label_sets, settings.zipf)
        rng = random.Random(f"{settings.seed} label sets")
        self.label_sets = [
            draw_distinct(rng, VOCABULARY, self._text_weights, rng.randint(*LABELS_PER_SET))
            for _ in range(settings.label_sets)
        ]

    def jobs(self, worker: int, user: int) -> Iterator[Job]:
        """Return an endless stream of jobs that depends only on seed, worker and user."""
        rng = random.Random(f"{self._settings.seed} worker {worker} user {user}")
        while True:
            yield self._job(rng)

    def _job(self, rng: random.Random) -> Job:
        kind = rng.choices(self._kinds, weights=self._kind_weights)[0]
        images = () if kind == "embed_texts" else self._images(rng)
        texts = self._texts(rng, kind)
        fault = None
        if rng.random() < self._settings.bad_share:
            what = rng.choice(FAULTS[kind])
            fault = Fault(what, rng.randrange(len(texts if what == EMPTY_TEXT else images)))
        return Job(kind, images, texts, fault)

    def _images(self, rng: random.Random) -> tuple[int, ...]:
        count = rng.randint(*SEVERAL_IMAGES) if rng.random() < SEVERAL_SHARE else 1
        return tuple(rng.randrange(self._settings.pictures) for _ in range(count))

    def _texts(self, rng: random.Random, kind: str) -> tuple[str, ...]:
        if kind == "classify":
            return rng.choices(self.label_sets, cum_weights=self._set_weights)[0]
        if kind == "embed_texts":
            return draw_distinct(rng, VOCABULARY, self._text_weights, rng.randint(*TEXTS_PER_REQUEST))
        return ()
