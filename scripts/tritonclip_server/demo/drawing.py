"""Draw the pixels of scenes, in about a millisecond each.

The same scene and the same generator state give the same picture. `demo.scenes` decides what it shows.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tritonclip_server.demo.scenes import COLOURS, GREYS, MIN_CONTRAST, Scene, contrast, load_glyphs

SIDE = 224  # pixels: the model's input
_OVERSAMPLING = 3  # shapes are drawn this much larger and averaged, for smooth edges

Colour = tuple[int, int, int]


def draw(scene: Scene, rng: np.random.Generator, side: int = SIDE, degrade: bool = True) -> Image.Image:
    """Draw a scene.

    Args:
        scene: Contents of the picture.
        rng: Source of shades, rotation, texture and noise.
        side: Side of the square picture in pixels.
        degrade: Allow noise and a loss of sharpness.

    Returns:
        An RGB image of `side` x `side` pixels.
    """
    colour = sample_shade(rng, scene.colour)
    picture = _draw_background(scene, rng, colour, side)
    turn = int(rng.integers(4)) * 90 if scene.name == "arrow" else 0
    for x, y, diameter in scene.places:
        pixels = max(8, round(diameter * side))
        if scene.kind == "digit":
            mask = digit_mask(scene.glyph, pixels, rng)
        else:
            mask = shape_mask(scene.name, pixels, turn + rng.uniform(-14, 14))
        picture.paste(colour, (round(x * side - pixels / 2), round(y * side - pixels / 2)), mask)
    return _degrade(picture, rng) if degrade else picture


def draw_plain_digit(row: int, side: int = SIDE) -> Image.Image:
    """Draw a digit as in scikit-learn, white on black and enlarged, as an RGB image."""
    glyph = Image.fromarray(load_glyphs()[0][row])
    return glyph.resize((side, side), Image.Resampling.BICUBIC).convert("RGB")


def sample_shade(rng: np.random.Generator, name: str) -> Colour:
    """Return a random shade of a named colour or of grey, sRGB, 0 to 255."""
    shades = np.array(GREYS if name == "grey" else COLOURS[name], dtype=np.float64)
    mixed = rng.dirichlet(np.full(len(shades), 0.7)) @ shades + rng.normal(0, 5, 3)
    red, green, blue = (int(v) for v in np.clip(mixed, 0, 255))
    return red, green, blue


def shape_mask(name: str, pixels: int, degrees: float) -> Image.Image:
    """Draw the coverage of a shape: an "L" image of `pixels` x `pixels`, 255 inside, turned by `degrees`."""
    big = pixels * _OVERSAMPLING
    mask = Image.new("L", (big, big))
    pen = ImageDraw.Draw(mask)
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for points, ink in _outlines()[name]:
        pen.polygon([tuple(p) for p in (points @ turn + 1) * (big / 2)], fill=ink)
    return mask.reduce(_OVERSAMPLING)


def digit_mask(row: int, pixels: int, rng: np.random.Generator) -> Image.Image:
    """Draw the coverage of a digit: an "L" image of `pixels` x `pixels`, with random slant, turn and ink."""
    glyph = load_glyphs()[0][row]
    if rng.random() < 0.3:  # unchanged, with a border of at most two source pixels
        bordered = Image.fromarray(np.pad(glyph, rng.integers(3)))
        return bordered.resize((pixels, pixels), Image.Resampling.BICUBIC)
    corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * rng.uniform(4.0, 5.2)
    angle = np.deg2rad(rng.normal(0, 5))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.array([[rng.uniform(0.9, 1.15), rng.normal(0, 0.09)], [0, rng.uniform(0.92, 1.1)]])
    quad = corners @ (turn @ stretch).T + rng.normal(0, 0.25, (4, 2)) + rng.normal(0, 0.2, 2)
    quad += 8  # the middle of 16 x 16
    source = Image.fromarray(np.pad(glyph, 4))
    size, method = (pixels, pixels), Image.Resampling.BICUBIC
    mask = source.transform(size, Image.Transform.QUAD, quad.ravel().tolist(), method)
    if rng.random() < 0.4:  # thicker or thinner strokes with a harder edge
        floor, gain = rng.uniform(30, 100), rng.uniform(1.2, 2.5)
        mask = mask.point([int(np.clip((v - floor) * gain, 0, 255)) for v in range(256)])
    return mask


@functools.cache
def _outlines() -> dict[str, list[tuple[np.ndarray, int]]]:
    """Return each shape as polygons in [-1, 1] x [-1, 1], y down, with their ink, in drawing order."""

    def ellipse(rx: float, ry: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
        t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], axis=1)

    def spikes(count: int, inner: float) -> np.ndarray:
        t = np.arange(2 * count) * np.pi / count - np.pi / 2
        radius = np.where(np.arange(2 * count) % 2, inner, 1.0)
        return np.stack([radius * np.cos(t), radius * np.sin(t)], axis=1)

    t = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    heart = np.stack(
        [16 * np.sin(t) ** 3, 2 - 13 * np.cos(t) + 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t)]
    )
    a, w = 0.3, 0.95
    bars = [
        (-a, -w),
        (a, -w),
        (a, -a),
        (w, -a),
        (w, a),
        (a, a),
        (a, w),
        (-a, w),
        (-a, a),
        (-w, a),
        (-w, -a),
        (-a, -a),
    ]
    shaft = [(-0.95, -0.22), (0.1, -0.22), (0.1, -0.7), (0.95, 0), (0.1, 0.7), (0.1, 0.22), (-0.95, 0.22)]
    polygons: dict[str, list[tuple[Any, int]]] = {
        "circle": [(ellipse(0.95, 0.95), 255)],
        "square": [([(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)], 255)],
        "triangle": [([(0, -0.95), (0.9, 0.7), (-0.9, 0.7)], 255)],
        "star": [(spikes(5, 0.42), 255)],
        "heart": [(heart.T / 18, 255)],
        "diamond": [([(0, -0.97), (0.68, 0), (0, 0.97), (-0.68, 0)], 255)],
        "cross": [(bars, 255)],
        "ring": [(ellipse(0.95, 0.95), 255), (ellipse(0.55, 0.55), 0)],
        "crescent": [(ellipse(0.95, 0.95), 255), (ellipse(0.82, 0.82, 0.42), 0)],
        "arrow": [(shaft, 255)],
    }
    return {name: [(np.array(points), ink) for points, ink in parts] for name, parts in polygons.items()}


def _draw_background(scene: Scene, rng: np.random.Generator, colour: Colour, side: int) -> Image.Image:
    if scene.background:
        return Image.new("RGB", (side, side), sample_shade(rng, scene.background))
    muted = rng.uniform(0, 255) * 0.7 + rng.uniform(0, 255, 3) * 0.3
    while contrast(muted, colour) < MIN_CONTRAST:
        muted = rng.uniform(0, 255) * 0.7 + rng.uniform(0, 255, 3) * 0.3
    cells = ((1, 2), (2, 1), (2, 2), (7, 7))[rng.integers(4)]  # gradients, or a soft texture
    values = np.clip(muted + rng.normal(0, 18, (*cells, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(values).resize((side, side), Image.Resampling.BILINEAR)


@functools.cache
def _noise_sheet() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 64, (1024, 1024, 3)).astype(np.int16)


def _degrade(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = picture.width
    if rng.random() < 0.15:
        small = int(side * rng.uniform(0.35, 0.8))
        picture = picture.resize((small, small), Image.Resampling.BILINEAR).resize((side, side))
    if rng.random() < 0.4:  # a random window of one sheet is much faster than new noise
        top, left = rng.integers(0, _noise_sheet().shape[0] - side, 2)
        window = _noise_sheet()[top : top + side, left : left + side]
        noisy = np.asarray(picture, dtype=np.int16) + ((window * np.int16(rng.integers(3, 24))) >> 6)
        picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return picture
