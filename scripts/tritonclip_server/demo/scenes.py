"""Scenes, the contents of the demo's pictures: the vocabulary, the held-out pairs, and random sampling.

`demo.drawing` draws a scene, and `demo.captions` describes it in words.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Shades of each colour, sRGB, 0 to 255. The colour of a picture is a random mix of them.
COLOURS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((255, 0, 0), (200, 20, 30), (225, 40, 45)),
    "orange": ((255, 140, 0), (240, 125, 20), (250, 155, 50)),
    "yellow": ((255, 255, 0), (250, 220, 40), (240, 225, 20)),
    "green": ((0, 200, 0), (0, 128, 0), (60, 180, 75)),
    "blue": ((0, 0, 255), (30, 80, 200), (40, 110, 230)),
    "purple": ((128, 0, 128), (120, 40, 170), (145, 60, 190)),
    "pink": ((255, 130, 185), (255, 105, 180), (250, 165, 200)),
    "brown": ((125, 70, 25), (100, 60, 35), (140, 85, 45)),
    "black": ((0, 0, 0), (20, 20, 20), (35, 30, 35)),
    "white": ((255, 255, 255), (240, 240, 240), (250, 248, 240)),
}
GREYS = ((128, 128, 128), (110, 112, 115), (150, 150, 148))
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring", "crescent", "arrow")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BACKGROUNDS = ("white", "black", "grey", "red", "yellow", "green", "blue")
BRIGHT = ("white", "white", "yellow", "pink", "orange")
MAX_COUNT = 4
DIGIT_SHARE = 0.45  # share of digits in the training pictures

# Two diagonals of the colour x shape table: exactly two pairs are held out per colour and per shape.
HELD_OUT = frozenset(
    (colour, SHAPES[(i + shift) % len(SHAPES)]) for i, colour in enumerate(COLOURS) for shift in (0, 3)
)
PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
SEEN = tuple(pair for pair in PAIRS if pair not in HELD_OUT)

# Diameters relative to the side of the picture. Gaps separate "small" and "large" from the unnamed middle.
SIZES = {"small": (0.20, 0.28), "medium": (0.32, 0.46), "large": (0.55, 0.82)}
MIN_CONTRAST = 130.0  # Euclidean RGB distance between an object and its background


@dataclass(frozen=True)
class Scene:
    """Contents of one picture.

    Attributes:
        kind: "shape" or "digit".
        name: Word for the shape or the digit, such as "circle" or "seven".
        colour: Key of `COLOURS`.
        size: Key of `SIZES`.
        background: One of `BACKGROUNDS`, or "" for a gradient or a texture.
        places: (x, y, diameter) of every object, relative to the side of the picture.
        glyph: Row in scikit-learn's digits, or -1 for shapes.
    """

    kind: str
    name: str
    colour: str
    size: str
    background: str
    places: tuple[tuple[float, float, float], ...]
    glyph: int = -1

    @property
    def position(self) -> str:
        """Position of a single object: left, right, top, bottom, centre, or "" if no word fits."""
        if len(self.places) != 1:
            return ""
        dx, dy = self.places[0][0] - 0.5, self.places[0][1] - 0.5
        if max(abs(dx), abs(dy)) < 0.06:
            return "centre"
        if abs(dx) > 0.15 and abs(dy) < 0.08:
            return "left" if dx < 0 else "right"
        if abs(dy) > 0.15 and abs(dx) < 0.08:
            return "top" if dy < 0 else "bottom"
        return ""

    @property
    def facts(self) -> dict[str, object]:
        """All facts that a caption can state about the picture; `captions.describes` compares them."""
        return {
            "kind": self.kind,
            "name": self.name,
            "colour": self.colour,
            "size": self.size,
            "count": len(self.places),
            "plural": len(self.places) > 1,
            "position": self.position,
            "background": self.background,
        }


@functools.cache
def load_glyphs() -> tuple[np.ndarray, np.ndarray]:
    """Load scikit-learn's handwritten digits.

    Returns:
        uint8 [1797, 8, 8] ink from 0 to 255, and int64 [1797] digits from 0 to 9.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target


def digit_rows(half: str) -> np.ndarray:
    """Return the rows of the "train" or the "test" half of the digits: int64, disjoint.

    The data set is ordered by writer, so the halves come from different writers.
    """
    rows = np.arange(len(load_glyphs()[1]))
    middle = len(rows) // 2
    return {"train": rows[:middle], "test": rows[middle:]}[half]


def contrast(first: Sequence[float] | np.ndarray, second: Sequence[float]) -> float:
    """Return the Euclidean distance of two sRGB colours, 0 to 255 per channel."""
    return float(np.linalg.norm(np.subtract(first, second)))


@functools.cache
def backgrounds_for(colour: str) -> tuple[str, ...]:
    """Return the named backgrounds that contrast with every shade of a colour."""
    shades = {**COLOURS, "grey": GREYS}
    return tuple(
        name
        for name in BACKGROUNDS
        if min(contrast(a, b) for a in shades[name] for b in shades[colour]) > MIN_CONTRAST
    )


def sample_shapes(
    rng: np.random.Generator,
    colour: str,
    shape: str,
    count: int | None = None,
    size: str = "",
    background: str | None = None,
) -> Scene:
    """Sample a scene of `count` equal shapes, by default mostly one. Arguments left out are random."""
    if count is None:
        count = 1 if rng.random() < 0.72 else int(rng.integers(2, MAX_COUNT + 1))
    if not size:
        sizes = tuple(SIZES) if count == 1 else ("small", "medium") if count == 2 else ("small",)
        size = sizes[rng.integers(len(sizes))]
    if background is None:
        background = _sample_background(rng, colour)
    return Scene("shape", shape, colour, size, background, _sample_places(rng, SIZES[size], count))


def sample_digit(
    rng: np.random.Generator, row: int, colour: str = "", size: str = "", background: str | None = None
) -> Scene:
    """Sample a scene of one handwritten digit, never small, because its strokes would be too thin."""
    if not colour:
        colours = ("black", "white") if rng.random() < 0.5 else tuple(COLOURS)
        colour = colours[rng.integers(len(colours))]
    if not size:
        size = "large" if rng.random() < 0.85 else "medium"
    if background is None:
        background = _sample_background(rng, colour)
    name = DIGITS[load_glyphs()[1][row]]
    if size == "large" and rng.random() < 0.3:
        places: tuple[tuple[float, float, float], ...] = ((0.5, 0.5, 1.0),)
    else:
        places = _sample_places(rng, (0.6, 1.0) if size == "large" else SIZES[size], 1)
    return Scene("digit", name, colour, size, background, places, int(row))


def sample_training_scene(rng: np.random.Generator, plain: bool = False) -> Scene:
    """Sample a scene for training: never a held-out pair, never a digit of the test half.

    Args:
        rng: Source of randomness.
        plain: Only bright objects on black, most of them large, as at the start of training.
    """
    colour = BRIGHT[rng.integers(len(BRIGHT))] if plain else ""
    size = "large" if plain and rng.random() < 0.6 else ""
    background = "black" if plain else None
    if rng.random() < DIGIT_SHARE:
        return sample_digit(rng, int(rng.choice(digit_rows("train"))), colour, size, background)
    pairs = [pair for pair in SEEN if pair[0] == colour] if plain else SEEN
    return sample_shapes(rng, *pairs[rng.integers(len(pairs))], 1 if size else None, size, background)


def _sample_background(rng: np.random.Generator, colour: str) -> str:
    names = backgrounds_for(colour)
    return names[rng.integers(len(names))] if rng.random() < 0.6 else ""


def _sample_places(
    rng: np.random.Generator, limits: tuple[float, float], count: int
) -> tuple[tuple[float, float, float], ...]:
    diameter = float(rng.uniform(*limits))
    low, high = diameter / 2, 1 - diameter / 2
    places: list[tuple[float, float, float]] = []
    tries = 0
    while len(places) < count:
        if count == 1 and rng.random() < 0.3:  # otherwise the centre would be rare
            x, y = np.clip(rng.normal(0.5, 0.03, 2), low, high)
        else:
            x, y = rng.uniform(low, high, 2)
        if all(np.hypot(x - px, y - py) > 1.1 * diameter for px, py, _ in places):
            places.append((float(x), float(y), diameter))
        tries += 1
        if tries % 50 == 0:  # the objects placed first leave no room
            places.clear()
    return tuple(places)
