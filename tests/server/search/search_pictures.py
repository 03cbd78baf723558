"""Folders of drawn pictures, whose names say what they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tritonclip_server.demo.drawing import draw
from tritonclip_server.demo.scenes import PAIRS, Scene, backgrounds_for

SIDE = 96


def picture(number: int, seed: int = 0) -> tuple[str, Image.Image]:
    """A picture and what it shows; the same for the same numbers."""
    rng = np.random.default_rng([seed, number])
    colour, shape = PAIRS[number % len(PAIRS)]
    ground = str(rng.choice(backgrounds_for(colour)))
    x, y = rng.uniform(0.4, 0.6, 2)
    place = (float(x), float(y), float(rng.uniform(0.45, 0.7)))
    scene = Scene("shape", shape, colour, "large", ground, (place,))
    return f"{colour} {shape}", draw(scene, rng, SIDE)


def draw_folder(directory: Path, count: int, seed: int = 0) -> list[Path]:
    """Write so many pictures, in folders of 100."""
    paths = []
    for number in range(count):
        shown, image = picture(number, seed)
        path = directory / f"{number // 100:02}" / f"{number:04} {shown}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=92)
        paths.append(path)
    return paths
